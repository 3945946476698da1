//! One request and its answer, in either HTTP version.
//!
//! The module checks the bounds on the request's head, calls the handler, and answers in its place when
//! a bound is exceeded.

use std::{
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{Arc, Mutex},
};

use futures_util::FutureExt;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, RETRY_AFTER},
};
use http_body::Body as _;
use tracing::error;

use super::{
    activity::Activity,
    date,
    last::LastAnswer,
    received::{BodyKind, Received},
    request::RequestInFlight,
    upgrade::Tunnel,
};
use crate::{
    body::{self, Body, Wire},
    fields, grpc,
    handler::Handler,
    limits::{Limits, MAX_HEADER_BYTES, MAX_HEADERS, MAX_TARGET_BYTES},
    peer::Peer,
    websocket::WebSocket,
};

/// The handler, the bounds and the activity that all requests of a connection share.
pub(super) struct Serving<H> {
    pub(super) handler: H,
    pub(super) peer: Peer,
    pub(super) limits: Limits,
    pub(super) activity: Arc<Activity>,
    /// The tunnel that an HTTP/1.1 connection becomes after its last answer.
    pub(super) tunnel: Mutex<Option<Tunnel>>,
}

/// The properties of a request that the form of its answer depends on.
struct Asked {
    kind: BodyKind,
    is_connect: bool,
}

impl Asked {
    fn by(request: &Request<Wire>) -> Self {
        let is_websocket = request.extensions().get::<WebSocket>().is_some();
        let kind = match is_websocket {
            true => BodyKind::Socket,
            false if grpc::is_call(request) => BodyKind::Call,
            false => BodyKind::Plain,
        };
        let is_connect = *request.method() == Method::CONNECT;
        Self { kind, is_connect }
    }

    /// Returns the answer in a form that its caller can't mistake.
    fn settle(&self, response: Response<Body>) -> Response<Body> {
        let status = response.status();
        let is_error = status.is_client_error() || status.is_server_error();
        // An upstream's answer is streamed, and one of this process is not.
        let is_own = !response.body().is_streamed();
        match self.kind {
            // Another answer to CONNECT than that of a WebSocket must not make a tunnel.
            _ if self.is_connect && status.is_success() => body::method_not_allowed(),
            BodyKind::Plain | BodyKind::Call if status == StatusCode::SWITCHING_PROTOCOLS => {
                body::status(StatusCode::INTERNAL_SERVER_ERROR)
            }
            BodyKind::Call if is_error && is_own => grpc::answer(response),
            _ => response,
        }
    }
}

impl<H: Handler> Serving<H> {
    /// Returns the answer of the handler, or one in its place if the request exceeds a bound or its body
    /// breaks off.
    pub(super) async fn answer(
        &self,
        request: Request<Wire>,
        in_flight: &Arc<RequestInFlight>,
    ) -> Response<Body> {
        let asked = Asked::by(&request);
        let refused = match in_flight.is_admitted() {
            true => over_bounds(&request, &self.limits),
            false => Some(overloaded(!request.body().is_end_stream())),
        };
        let request = request.map(|body| Received::new(body, &self.limits, asked.kind, in_flight));
        let mut response = match refused {
            Some(refused) => refused,
            None => tokio::select! {
                response = self.handle(request) => response,
                () = in_flight.evicted() => overloaded(true),
            },
        };
        if let Some(status) = in_flight.fault() {
            response = refusal(status);
        }
        response = asked.settle(response);
        date::set(response.headers_mut());
        if matches!(
            response.status(),
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        ) {
            response = without_body(response);
        }
        response
    }

    /// Calls the handler. A panic in it ends this request only.
    async fn handle(&self, request: Request<Received>) -> Response<Body> {
        let answering = AssertUnwindSafe(pin!(self.handler.handle(request, &self.peer)));
        answering.catch_unwind().await.unwrap_or_else(|_| {
            error!(peer = %self.peer, "the handler panicked: answering 500");
            body::status(StatusCode::INTERNAL_SERVER_ERROR)
        })
    }
}

/// Returns the answer to a request whose head exceeds a bound, or `None` if it does not.
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

/// Returns an answer with this status. An HTTP/1.1 connection closes after it, because the rest of the
/// request's body may never come.
fn refusal(status: StatusCode) -> Response<Body> {
    let mut response = body::status(status);
    response.extensions_mut().insert(LastAnswer);
    response
}

/// Returns the answer to a request over the in-flight limit. The connection stays open if the request
/// has no body, because a new connection would cost more than the request.
fn overloaded(has_body: bool) -> Response<Body> {
    let mut response = body::status(StatusCode::SERVICE_UNAVAILABLE);
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    if has_body {
        response.extensions_mut().insert(LastAnswer);
    }
    response
}

/// Removes the body of a 204 or 304 answer. The length of a 204 is removed too (RFC 9110 §8.6). A 304 has
/// the length of the answer to a GET (§15.4.5).
fn without_body(mut response: Response<Body>) -> Response<Body> {
    if response.status() == StatusCode::NO_CONTENT {
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    response.map(|_| Body::empty())
}
