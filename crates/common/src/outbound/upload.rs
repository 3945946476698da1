//! A request's body on its way out, and how long the target may take nothing and say nothing.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Since when it is the target that a request waits for, and its body, if nothing was taken of it.
#[derive(Debug)]
pub(super) struct Upload<B>(Arc<Mutex<State<B>>>);

#[derive(Debug)]
struct State<B> {
    /// `None` while it is the body's source that is waited for.
    since: Option<Instant>,
    returned: Option<B>,
}

/// A body that notes who is waited for, and gives itself back when nobody asked for a part of it.
#[derive(Debug)]
pub(super) struct Outgoing<B> {
    /// There until the end.
    body: Option<B>,
    is_whole: bool,
    upload: Upload<B>,
    /// Before then the target does not hear that it broke off (`sent`).
    not_before: Instant,
    broken: Option<(Pin<Box<Sleep>>, BoxError)>,
}

impl<B> Drop for Outgoing<B> {
    fn drop(&mut self) {
        let mut state = self.upload.lock();
        // Sent to its end, or not wanted any more: what is missing is the answer.
        state.since = Some(Instant::now());
        if self.is_whole {
            state.returned = self.body.take();
        }
    }
}

impl<B> Upload<B> {
    /// `body`, and who it waits for. It does not break off before it is `min_age` old.
    pub(super) fn of(body: B, min_age: Duration) -> (Self, Outgoing<B>) {
        let upload = Self(Arc::new(Mutex::new(State {
            since: Some(Instant::now()),
            returned: None,
        })));
        let outgoing = Outgoing {
            body: Some(body),
            is_whole: true,
            upload: Self(Arc::clone(&upload.0)),
            not_before: Instant::now() + min_age,
            broken: None,
        };
        (upload, outgoing)
    }

    /// Returns once the target has neither taken a part of the body nor answered for `patience`.
    pub(super) async fn stalled(&self, patience: Duration) {
        loop {
            let now = Instant::now();
            let deadline = self.lock().since.unwrap_or(now) + patience;
            if now >= deadline {
                return;
            }
            sleep_until(deadline).await;
        }
    }

    /// The body, if it was given up before a part of it was taken.
    pub(super) fn returned(&self) -> Option<B> {
        self.lock().returned.take()
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Outgoing<B> {
    /// Holds back an error until its time has come.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Option<BoxError>> {
        if let Some((time, _)) = &mut self.broken {
            ready!(time.as_mut().poll(cx));
        }
        Poll::Ready(self.broken.take().map(|(_, error)| error))
    }
}

impl<B: Body<Error: Into<BoxError>> + Unpin> Body for Outgoing<B> {
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let this = self.get_mut();
        this.is_whole = false;
        if let Some(error) = ready!(this.poll_broken(cx)) {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        let polled = match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Err(error))) if Instant::now() < this.not_before => {
                this.broken = Some((Box::pin(sleep_until(this.not_before)), error.into()));
                return Pin::new(this).poll_frame(cx);
            }
            polled => polled.map_err(Into::into),
        };
        this.upload.lock().since = polled.is_ready().then(Instant::now);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body_util::{Channel, Full};
    use hyper::body::Bytes;
    use tokio::time::{sleep, timeout};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    async fn stalled_after<B>(upload: &Upload<B>) -> u64 {
        let start = Instant::now();
        upload.stalled(PATIENCE).await;
        start.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn p157_a_target_that_takes_nothing_has_its_time() {
        let (upload, body) = Upload::of(Full::new(Bytes::from("never polled")), Duration::ZERO);
        assert_eq!(stalled_after(&upload).await, 30);
        drop(body);
        assert_eq!(stalled_after(&upload).await, 30, "from the body's end");
    }

    #[tokio::test(start_paused = true)]
    async fn p157_the_time_that_the_source_takes_is_not_the_target_s() {
        let (mut source, body) = Channel::<Bytes>::new(1);
        let (upload, mut body) = Upload::of(body, Duration::ZERO);
        let sending = tokio::spawn(async move {
            while poll_fn(|cx| Pin::new(&mut body).poll_frame(cx))
                .await
                .is_some()
            {}
        });
        let watched = tokio::spawn({
            let upload = Upload(Arc::clone(&upload.0));
            async move { stalled_after(&upload).await }
        });
        for _ in 0..10 {
            sleep(Duration::from_secs(29)).await;
            source.send_data("a part".into()).await.unwrap();
        }
        let waits = timeout(Duration::from_secs(3600), upload.stalled(PATIENCE)).await;
        assert!(waits.is_err(), "the source may take as long as it likes");
        drop(source);
        sending.await.unwrap();
        assert_eq!(stalled_after(&upload).await, 30);
        assert!(watched.await.unwrap() > 3600);
    }

    #[tokio::test(start_paused = true)]
    async fn p144_a_body_breaks_off_when_it_is_old_enough() {
        let second = Duration::from_secs(1);
        for (min_age, breaks_after, told_after) in [
            (second, Duration::ZERO, second),
            (second, 2 * second, 2 * second),
            (Duration::ZERO, Duration::ZERO, Duration::ZERO),
        ] {
            let (source, body) = Channel::<Bytes, std::io::Error>::new(1);
            let (_upload, mut body) = Upload::of(body, min_age);
            let start = Instant::now();
            tokio::spawn(async move {
                sleep(breaks_after).await;
                source.abort(std::io::Error::other("gone"));
            });
            let told = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
            assert_eq!(told.unwrap().unwrap_err().to_string(), "gone");
            assert_eq!(start.elapsed().as_millis(), told_after.as_millis());
        }
    }

    #[tokio::test]
    async fn a_body_that_nobody_asked_for_comes_back_whole() {
        let (upload, body) = Upload::of(Full::new(Bytes::from("whole")), Duration::ZERO);
        assert!(upload.returned().is_none(), "it may still be sent");
        drop(body);
        assert_eq!(upload.returned().unwrap().size_hint().exact(), Some(5));

        let (upload, mut body) = Upload::of(Full::new(Bytes::from("taken")), Duration::ZERO);
        poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        drop(body);
        assert!(upload.returned().is_none());
    }
}
