//! Requests and answers over HTTP/1.1, with hyper.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, header::EXPECT};
use http_body::{Body as _, Frame, SizeHint};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
};
use hyper_util::rt::TokioTimer;

use super::{answer::Answer, exchange::Serving, last, request::RequestInFlight, unread};
use crate::{
    body::{BoxError, Wire},
    handler::Handler,
    limits::MAX_HEADER_BYTES,
};

/// Returns the HTTP/1.1 settings of every connection, also of those that are not sockets.
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

/// Answers one request.
///
/// The future is boxed because hyper keeps memory for it in each idle connection. With the box 10,000
/// idle connections take 286 MiB instead of 340 (`scripts/bench.sh --rows idle`).
pub(super) fn exchange<H: Handler>(
    serving: &Arc<Serving<H>>,
    request: Request<Incoming>,
) -> Answering {
    let in_flight = RequestInFlight::begin(&serving.activity);
    let serving = Arc::clone(serving);
    Box::pin(async move {
        let changes = last::may_change_protocol(&request);
        let has_body = !request.body().is_end_stream();
        let expects = has_body && request.headers().contains_key(EXPECT);
        let mut response = serving.answer(request.map(Wire::Http1), &in_flight).await;
        // A body that nobody asked for may never come, or may be read as the next request. The rest of a
        // body that the handler has or has left may be too long to read. In both cases the connection
        // ends.
        let is_unasked = expects && !in_flight.wants_body();
        let is_long = in_flight.body_left() > unread::MAX_BYTES;
        let ends = match in_flight.take_rest() {
            Some(rest) if !is_unasked => !rest.settles().await,
            _ => is_unasked || is_long,
        };
        last::announce(&mut response, ends || changes || in_flight.is_last());
        let timeout = serving.limits.stream_idle_timeout;
        Ok(response.map(|body| Tracked::new(Answer::new(body, in_flight, timeout))))
    })
}

/// The error of an answer that makes room for a request of another source.
#[derive(Debug, thiserror::Error)]
#[error("evicted for another source's request")]
struct Evicted;

/// The body of an answer, which ends its request in flight when it is dropped.
pub(super) struct Tracked(Answer);

impl Tracked {
    fn new(answer: Answer) -> Self {
        if answer.is_streamed() {
            answer.in_flight().streams_answer();
        }
        Self(answer)
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.0.in_flight().end();
    }
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self(answer) = &mut *self;
        if answer.is_streamed() && answer.in_flight().poll_evicted(cx).is_ready() {
            return Poll::Ready(Some(Err(Evicted.into())));
        }
        Pin::new(answer).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
