//! Requests and answers over HTTP/1.1, by hyper.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, header::EXPECT};
use http_body::{Frame, SizeHint};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
};
use hyper_util::rt::TokioTimer;

use super::{exchange::Serving, flight::Flight, last, received::DRAIN_BYTES};
use crate::{
    body::{Body, BoxError, Wire},
    handler::Handler,
    limits::MAX_HEADER_BYTES,
};

/// HTTP/1.1 as every connection speaks it, also those that are not sockets.
#[must_use]
pub fn http1() -> http1::Builder {
    let mut http1 = http1::Builder::new();
    http1
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(MAX_HEADER_BYTES as usize);
    http1
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Tracked>, Infallible>> + Send>>;

/// Answers one request. The future is boxed because it is large, and an HTTP/1.1 connection has a
/// place for it also while it is idle.
pub(super) fn exchange<H: Handler>(
    serving: &Arc<Serving<H>>,
    request: Request<Incoming>,
) -> Answering {
    let flight = Flight::begin(&serving.activity);
    let serving = Arc::clone(serving);
    Box::pin(async move {
        let changes = last::may_change_protocol(&request);
        let expects = request.headers().contains_key(EXPECT);
        let mut response = serving.answer(request.map(Wire::Http1), &flight).await;
        // A body that is not asked for may never come, or come in place of the next request. One that
        // the handler still has, or has left, may be too long to read on.
        let is_unasked = expects && !flight.wants_body();
        let is_long = flight.body_left() > DRAIN_BYTES;
        let ends = match flight.take_rest() {
            Some(rest) if !is_unasked => !rest.settles().await,
            _ => is_unasked || is_long,
        };
        last::announce(&mut response, ends || changes || flight.is_last());
        Ok(response.map(|body| Tracked::new(body, flight)))
    })
}

/// An answer that was given up for a request of another source.
#[derive(Debug, thiserror::Error)]
#[error("given up for a request of another source")]
struct Evicted;

/// An answer's body; its request is in flight until the body is gone.
pub(super) struct Tracked {
    body: Body,
    flight: Arc<Flight>,
}

impl Tracked {
    fn new(body: Body, flight: Arc<Flight>) -> Self {
        if body.is_streamed() {
            flight.activity().answers(&flight);
        }
        Self { body, flight }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.flight.end();
    }
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let is_streamed = self.body.is_streamed();
        if is_streamed && self.flight.poll_evicted(cx).is_ready() {
            return Poll::Ready(Some(Err(Evicted.into())));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
