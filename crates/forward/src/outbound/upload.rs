//! A request's body while it is sent, and the time in which the upstream neither takes a part of it nor
//! answers.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
    time::Duration,
};

use common::lock::lock;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Bytes;
use serve::body::BoxError;
use tokio::time::{Instant, sleep_until};

use super::{
    body_fault::BodyFault,
    prepared::{Prepared, RequestBody, Whole},
};

/// The progress of a request's body, shared with the connection that sends it.
#[derive(Debug)]
pub(super) struct Upload<B>(Arc<Mutex<State<B>>>);

#[derive(Debug)]
struct State<B> {
    /// The time since which the request waits for the upstream. `None` while it waits for the body's
    /// source.
    since: Option<Instant>,
    /// The body, or `None` once it was taken back.
    body: Option<Prepared<B>>,
    /// A copy of a body that was read as a whole.
    whole: Option<Whole>,
    /// Set while nothing was taken of the body.
    is_untouched: bool,
    /// Set once the body's end was handed to the connection.
    is_sent: bool,
    /// The error of the body's source.
    failure: Option<BodyFault>,
}

/// A body that notes its progress, and can be taken back while nothing was taken of it.
#[derive(Debug)]
pub(super) struct UploadBody<B>(Upload<B>);

impl<B: RequestBody> Upload<B> {
    /// Returns `body` as it is sent, and its progress.
    pub(super) fn of(body: Prepared<B>) -> (Self, UploadBody<B>) {
        let whole = match &body {
            Prepared::Whole(whole) => Some(whole.clone()),
            Prepared::Streamed(..) => None,
        };
        let state = Arc::new(Mutex::new(State {
            since: Some(Instant::now()),
            body: Some(body),
            whole,
            is_untouched: true,
            is_sent: false,
            failure: None,
        }));
        (Self(Arc::clone(&state)), UploadBody(Self(state)))
    }

    /// Waits until the upstream has neither taken a part of the body nor answered for `patience`.
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

    /// Takes the body back, if it can be sent again from its beginning.
    pub(super) fn taken_back(&self) -> Option<Prepared<B>> {
        let mut state = self.lock();
        match state.whole.clone() {
            Some(whole) => Some(Prepared::Whole(whole)),
            None if state.is_untouched => state.body.take(),
            None => None,
        }
    }

    /// Returns whether all of a body was handed to its connection.
    pub(super) fn is_sent(&self) -> bool {
        let state = self.lock();
        state.is_sent || state.body.as_ref().is_some_and(Prepared::is_end_stream)
    }

    /// Returns the error of the body's own source, if it failed.
    pub(super) fn failure(&self) -> Option<BodyFault> {
        self.lock().failure.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        lock(&self.0)
    }
}

impl<B: RequestBody> UploadBody<B> {
    /// Returns all of a body that was read as a whole.
    pub(super) fn into_whole(self) -> Whole {
        self.0.lock().whole.clone().unwrap_or_default()
    }
}

impl<B> Drop for UploadBody<B> {
    fn drop(&mut self) {
        // The body was sent to its end or is not wanted any more, so that the request waits for the
        // answer.
        let mut state = lock(&self.0.0);
        state.since = Some(Instant::now());
    }
}

impl<B: RequestBody> Body for UploadBody<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut state = self.0.lock();
        let Some(body) = &mut state.body else {
            return Poll::Ready(Some(Err("the body was taken back".into())));
        };
        let polled = body.poll_frame(cx);
        state.since = polled.is_ready().then(Instant::now);
        if let Poll::Ready(polled) = &polled {
            state.is_untouched = false;
            match polled {
                Some(Err(error)) => state.failure = Some(BodyFault::of(&**error)),
                // Nothing follows trailers, and hyper does not poll again.
                Some(Ok(frame)) => state.is_sent |= frame.is_trailers(),
                None => state.is_sent = true,
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let state = self.0.lock();
        state.body.as_ref().is_some_and(Prepared::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.0.lock();
        state
            .body
            .as_ref()
            .map(Prepared::size_hint)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body_util::{BodyExt, Channel, Full};
    use tokio::time::{sleep, timeout};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    async fn stalled_after<B: RequestBody>(upload: &Upload<B>) -> u64 {
        let start = Instant::now();
        upload.stalled(PATIENCE).await;
        start.elapsed().as_secs()
    }

    fn full(length: usize) -> Full<Bytes> {
        Full::new(Bytes::from(vec![b'a'; length]))
    }

    fn whole(text: &'static str) -> Whole {
        Whole {
            bytes: text.into(),
            trailers: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_takes_nothing_stalls_after_the_timeout_p157() {
        let (upload, body) = Upload::of(Prepared::Streamed(Bytes::new(), full(9)));
        assert_eq!(stalled_after(&upload).await, 30);
        drop(body);
        assert_eq!(stalled_after(&upload).await, 30, "from the body's end");
    }

    #[tokio::test(start_paused = true)]
    async fn time_that_the_source_takes_is_not_counted_p157() {
        let (mut source, body) = Channel::<Bytes>::new(1);
        let (upload, mut body) = Upload::of(Prepared::Streamed(Bytes::new(), body));
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
    async fn a_body_is_taken_back_as_a_whole_or_not_at_all() {
        let (upload, body) = Upload::of(Prepared::<Full<Bytes>>::Whole(whole("whole")));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "whole");
        assert!(
            matches!(upload.taken_back(), Some(Prepared::Whole(whole)) if whole.bytes == "whole")
        );

        // The body was polled, and nothing came yet.
        let (_source, pending) = Channel::<Bytes>::new(1);
        let (upload, mut body) = Upload::of(Prepared::Streamed(Bytes::new(), pending));
        let asked = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx).is_pending()));
        assert!(asked.await);
        assert!(matches!(upload.taken_back(), Some(Prepared::Streamed(..))));
        let more = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        assert!(
            more.unwrap().is_err(),
            "it does not end as if it were complete"
        );

        let (upload, mut body) = Upload::of(Prepared::Streamed(Bytes::new(), full(9)));
        poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        assert!(upload.taken_back().is_none());
    }

    #[tokio::test]
    async fn an_error_of_the_source_is_told_from_one_of_the_upstream() {
        let (source, body) = Channel::<Bytes, std::io::Error>::new(1);
        let (upload, body) = Upload::of(Prepared::Streamed(Bytes::new(), body));
        assert!(upload.failure().is_none());
        source.abort(std::io::Error::other("gone"));
        assert_eq!(body.collect().await.unwrap_err().to_string(), "gone");
        assert_eq!(upload.failure().unwrap().to_string(), "gone");
    }
}
