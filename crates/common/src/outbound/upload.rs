//! A request's body on its way out, and how long the target may take nothing and say nothing.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, sleep_until};

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
    /// `body`, and who it waits for.
    pub(super) fn of(body: B) -> (Self, Outgoing<B>) {
        let upload = Self(Arc::new(Mutex::new(State {
            since: Some(Instant::now()),
            returned: None,
        })));
        let outgoing = Outgoing {
            body: Some(body),
            is_whole: true,
            upload: Self(Arc::clone(&upload.0)),
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

impl<B: Body + Unpin> Body for Outgoing<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.get_mut();
        this.is_whole = false;
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(body).poll_frame(cx);
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
        let (upload, body) = Upload::of(Full::new(Bytes::from("never polled")));
        assert_eq!(stalled_after(&upload).await, 30);
        drop(body);
        assert_eq!(stalled_after(&upload).await, 30, "from the body's end");
    }

    #[tokio::test(start_paused = true)]
    async fn p157_the_time_that_the_source_takes_is_not_the_target_s() {
        let (mut source, body) = Channel::<Bytes>::new(1);
        let (upload, mut body) = Upload::of(body);
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

    #[tokio::test]
    async fn a_body_that_nobody_asked_for_comes_back_whole() {
        let (upload, body) = Upload::of(Full::new(Bytes::from("whole")));
        assert!(upload.returned().is_none(), "it may still be sent");
        drop(body);
        assert_eq!(upload.returned().unwrap().size_hint().exact(), Some(5));

        let (upload, mut body) = Upload::of(Full::new(Bytes::from("taken")));
        poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        drop(body);
        assert!(upload.returned().is_none());
    }
}
