//! One request and its answer on a connection, whatever the HTTP version: the bounds on its head, its
//! handler, and what is answered in the handler's place.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc};

use futures_util::FutureExt;
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, RETRY_AFTER},
};
use http_body::Body as _;
use tracing::error;

use super::{Received, activity::Activity, date, flight::Flight, last::LastAnswer};
use crate::{
    body::{self, Body, Wire},
    fields,
    handler::Handler,
    limits::{Limits, MAX_HEADER_BYTES, MAX_HEADERS, MAX_TARGET_BYTES},
    peer::Peer,
};

/// The handler, bounds and counts that all requests of a connection share.
pub(super) struct Serving<H> {
    pub(super) handler: H,
    pub(super) peer: Peer,
    pub(super) limits: Limits,
    pub(super) activity: Arc<Activity>,
}

impl<H: Handler> Serving<H> {
    /// Takes a request through its bounds to its handler, and returns its answer.
    pub(super) async fn answer(
        &self,
        request: Request<Wire>,
        flight: &Arc<Flight>,
    ) -> Response<Body> {
        let refused = match flight.is_admitted() {
            true => over_bounds(&request, &self.limits),
            false => Some(overloaded(!request.body().is_end_stream())),
        };
        let request = request.map(|body| Received::new(body, &self.limits, flight));
        let mut response = match refused {
            Some(refused) => refused,
            None => tokio::select! {
                response = self.handle(request) => response,
                () = flight.evicted() => overloaded(true),
            },
        };
        if let Some(status) = flight.fault() {
            response = refusal(status);
        }
        date::set(response.headers_mut());
        if matches!(
            response.status(),
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        ) {
            response = without_body(response);
        }
        response
    }

    /// A panic is its request's end and nobody else's.
    async fn handle(&self, request: Request<Received>) -> Response<Body> {
        let answering = AssertUnwindSafe(pin!(self.handler.handle(request, &self.peer)));
        answering.catch_unwind().await.unwrap_or_else(|_| {
            error!(peer = %self.peer, "a panic: answering 500 and going on");
            body::status(StatusCode::INTERNAL_SERVER_ERROR)
        })
    }
}

/// Answers a request whose head is over a bound, before any handler sees it.
fn over_bounds(request: &Request<Wire>, limits: &Limits) -> Option<Response<Body>> {
    let uri = request.uri();
    let target = uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    let authority = uri
        .authority()
        .map_or(0, |authority| authority.as_str().len());
    let status = if target + authority > MAX_TARGET_BYTES {
        StatusCode::URI_TOO_LONG
    } else if request.headers().len() > MAX_HEADERS
        || target + fields::bytes(request.headers()) > MAX_HEADER_BYTES as usize
    {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    } else if limits
        .max_body
        .is_some_and(|max| request.body().size_hint().lower() > max)
    {
        StatusCode::PAYLOAD_TOO_LARGE
    } else {
        return None;
    };
    Some(refusal(status))
}

/// An answer after which an HTTP/1.1 connection closes: the rest of the body may never come.
fn refusal(status: StatusCode) -> Response<Body> {
    let mut response = body::status(status);
    response.extensions_mut().insert(LastAnswer);
    response
}

/// Answers a request that is one more than the process takes at once. Without a body it costs its
/// connection nothing: a new one would cost more than the request.
fn overloaded(has_body: bool) -> Response<Body> {
    let mut response = body::status(StatusCode::SERVICE_UNAVAILABLE);
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    if has_body {
        response.extensions_mut().insert(LastAnswer);
    }
    response
}

/// Removes the body of an answer that has none: of 204, which has no length either (RFC 9110 §8.6),
/// and of 304, whose length is that of the answer that a GET would have had (§15.4.5).
fn without_body(mut response: Response<Body>) -> Response<Body> {
    if response.status() == StatusCode::NO_CONTENT {
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    response.map(|_| Body::empty())
}
