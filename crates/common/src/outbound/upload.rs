//! A request's body on its way out, and how long the target may take nothing and say nothing.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, sleep_until};

/// Since when it is the target that a request waits for; `None` while it is the body's source.
#[derive(Clone, Debug)]
pub(super) struct Upload(Arc<Mutex<Option<Instant>>>);

pin_project! {
    /// A body that notes who is waited for.
    #[derive(Debug)]
    pub(super) struct Outgoing<B> {
        #[pin]
        body: B,
        upload: Upload,
    }

    impl<B> PinnedDrop for Outgoing<B> {
        fn drop(this: Pin<&mut Self>) {
            // Sent to its end, or not wanted any more: what is missing is the answer.
            this.upload.waits_for_target();
        }
    }
}

impl Upload {
    /// `body`, and who it waits for.
    pub(super) fn of<B>(body: B) -> (Self, Outgoing<B>) {
        let upload = Self(Arc::new(Mutex::new(Some(Instant::now()))));
        let outgoing = Outgoing {
            body,
            upload: upload.clone(),
        };
        (upload, outgoing)
    }

    /// Returns once the target has neither taken a part of the body nor answered for `patience`.
    pub(super) async fn stalled(&self, patience: Duration) {
        loop {
            let now = Instant::now();
            let deadline = self.since().unwrap_or(now) + patience;
            if now >= deadline {
                return;
            }
            sleep_until(deadline).await;
        }
    }

    fn since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waits_for_target(&self) {
        self.set(Some(Instant::now()));
    }

    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

impl<B: Body> Body for Outgoing<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let polled = this.body.poll_frame(cx);
        match polled.is_pending() {
            true => this.upload.set(None),
            false => this.upload.waits_for_target(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
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

    async fn stalled_after(upload: &Upload) -> u64 {
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
            let upload = upload.clone();
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
}
