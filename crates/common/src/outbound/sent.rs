//! A request that was sent over an HTTP/2 connection, which it shares with those of other callers.
//!
//! Servers end a connection on which many requests are taken back as soon as they came (rapid reset,
//! CVE-2023-44487), ours among them. A caller who does that must not have the others' requests ended,
//! so it is not passed on at once: by the time that it would be, most such requests are answered.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};

/// How old a request is at least when its target hears that it is given up.
pub(super) const MIN_AGE: Duration = Duration::from_millis(200);

/// An answer to come.
pub(super) trait Answering:
    Future<Output = Result<Response<Incoming>, Self::Error>> + Send + 'static
{
    /// Why there is none.
    type Error: Send;
}

impl<F, E: Send> Answering for F
where
    F: Future<Output = Result<Response<Incoming>, E>> + Send + 'static,
{
    type Error = E;
}

/// The answer to come. Dropped before, it is waited for until the request is [`MIN_AGE`] old.
pub(super) struct Sent<F: Answering> {
    answer: Option<Pin<Box<F>>>,
    since: Instant,
}

impl<F: Answering> Sent<F> {
    pub(super) fn new(answer: F) -> Self {
        Self {
            answer: Some(Box::pin(answer)),
            since: Instant::now(),
        }
    }
}

impl<F: Answering> Future for Sent<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(answer) = &mut self.answer else {
            return Poll::Pending;
        };
        let polled = answer.as_mut().poll(cx);
        if polled.is_ready() {
            self.answer = None;
        }
        polled
    }
}

impl<F: Answering> Drop for Sent<F> {
    fn drop(&mut self) {
        let left = MIN_AGE.saturating_sub(self.since.elapsed());
        let (Some(answer), Ok(runtime)) = (self.answer.take(), Handle::try_current()) else {
            return;
        };
        if left.is_zero() {
            return;
        }
        runtime.spawn(timeout(left, async {
            if let Ok(response) = answer.await {
                let mut body = response.into_body();
                while let Some(Ok(_)) = body.frame().await {}
            }
        }));
    }
}
