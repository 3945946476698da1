//! Requests that are not passed to their handler, because they exceed a bound.

use common::{
    reason::Reason,
    sanitize::Sanitized,
    throttle::{LogQuotas, RefusedRequest},
};
use http::{HeaderValue, Request, Response, StatusCode, header::RETRY_AFTER};
use http_body::Body as _;
use tracing::warn;

use super::last::LastAnswer;
use crate::{
    body::{self, Body, Wire, because},
    fields,
    limits::{Limits, MAX_HEADER_BYTES, MAX_HEADERS, MAX_TARGET_BYTES},
    peer::Peer,
    reason::status,
    trace::TraceContext,
};

/// Returns the bound that the head of a request exceeds, if it exceeds one.
pub(super) fn over_bounds(request: &Request<Wire>, limits: &Limits) -> Option<Reason> {
    let uri = request.uri();
    let target = uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    let authority = uri
        .authority()
        .map_or(0, |authority| authority.as_str().len());
    let is_over = |max| request.body().size_hint().lower() > max;
    if target + authority > MAX_TARGET_BYTES {
        Some(Reason::TargetTooLong)
    } else if request.headers().len() > MAX_HEADERS
        || target + fields::bytes(request.headers()) > MAX_HEADER_BYTES as usize
    {
        Some(Reason::HeadTooLarge)
    } else if limits.max_body.is_some_and(is_over) {
        Some(Reason::BodyTooLarge)
    } else {
        None
    }
}

/// Logs a request that exceeds a bound, within the quota.
pub(super) fn log(request: &Request<Wire>, peer: &Peer, reason: Reason, quotas: &LogQuotas) {
    let status = status(reason);
    let text = match reason {
        Reason::TargetTooLong => "its target is too long",
        Reason::HeadTooLarge => "its head is too large",
        _ => "its body is longer than it may be",
    };
    let (method, path) = (request.method().as_str(), request.uri().path());
    let noted = quotas.note(status, peer.source(), || {
        RefusedRequest::new(status, reason, text, peer)
            .of(method, path)
            .claimed_by(request.headers())
    });
    let Some(left_out) = noted else {
        return;
    };
    let status = status.as_u16();
    let (method, path) = (Sanitized(method), Sanitized(path));
    let [trace_id, span_id] = TraceContext::ids_in(request.headers());
    warn!(
        %peer,
        status,
        %reason,
        %method,
        %path,
        trace_id,
        span_id,
        left_out,
        "request rejected: {text}"
    );
}

/// Returns the answer to a request that exceeds a bound. An HTTP/1.1 connection closes after it, because the
/// rest of the request's body may never come.
pub(super) fn answer(reason: Reason) -> Response<Body> {
    let mut response = because(reason, body::status(status(reason)));
    response.extensions_mut().insert(LastAnswer);
    response
}

/// Returns the answer to a request that this program has failed to serve.
pub(super) fn internal() -> Response<Body> {
    let response = body::status(StatusCode::INTERNAL_SERVER_ERROR);
    because(Reason::Internal, response)
}

/// Returns the answer to a CONNECT that opens no WebSocket.
pub(super) fn connect() -> Response<Body> {
    because(Reason::Method, body::method_not_allowed())
}

/// Returns the answer to a request over the in-flight limit. The connection stays open if the request
/// has no body, because a new connection would cost more than the request.
pub(super) fn overloaded(reason: Reason, has_body: bool) -> Response<Body> {
    let mut response = because(reason, body::status(StatusCode::SERVICE_UNAVAILABLE));
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    if has_body {
        response.extensions_mut().insert(LastAnswer);
    }
    response
}
