//! Forwards requests, answers those that are rejected or fail, and logs each of these once.

use std::{fmt::Display, sync::Arc};

use common::{
    reason::Reason,
    sanitize::Sanitized,
    throttle::{LogQuotas, RefusedRequest},
};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serve::{Received, access::Access, body::Body, peer::Peer, trace::TraceContext};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::{
    check::Checked,
    error::Error,
    forwarder::Forwarder,
    rejection::{Rejected, Rejection},
};

/// Forwards requests to one upstream, and always has an answer. Log lines are limited by quotas. It
/// belongs to one core.
#[derive(Debug)]
pub struct LoggedForwarder {
    forwarder: Forwarder,
    quotas: Arc<LogQuotas>,
}

/// The parts of a request that its log lines need after it was sent upstream.
struct Sent {
    trace: Option<TraceContext>,
    /// The entry in the access log, and the time when the request was sent.
    timed: Option<(Access, Instant)>,
}

impl LoggedForwarder {
    /// Returns a forwarder whose log lines are limited by `quotas`, which all cores share.
    #[must_use]
    pub fn new(forwarder: Forwarder, quotas: Arc<LogQuotas>) -> Self {
        Self { forwarder, quotas }
    }

    /// Forwards a request of `peer` ([`Forwarder::forward`]). If the upstream gives no answer, logs the reason
    /// and answers with a status.
    pub fn forward(
        &self,
        mut request: Checked,
        peer: &Peer,
        set: Option<(HeaderName, HeaderValue)>,
    ) -> impl Future<Output = Response<Body>> {
        let sent = Sent::of(&mut request);
        let forwarding = self.forwarder.forward(request, peer, set);
        forwarding.map(|forwarded| self.answered(forwarded, peer, sent))
    }

    /// Forwards a request as [`Forwarder::forward_renewing`] does, and answers as [`Self::forward`] does.
    pub fn forward_renewing<R>(
        &self,
        mut request: Checked,
        peer: &Peer,
        set: Option<(HeaderName, HeaderValue)>,
        renew: impl FnOnce(StatusCode, &HeaderMap) -> Option<R>,
    ) -> impl Future<Output = Response<Body>>
    where
        R: Future<Output = Option<(HeaderName, HeaderValue)>>,
    {
        let sent = Sent::of(&mut request);
        let forwarding = self.forwarder.forward_renewing(request, peer, set, renew);
        forwarding.map(|forwarded| self.answered(forwarded, peer, sent))
    }

    fn answered(
        &self,
        forwarded: Result<Response<Body>, Error>,
        peer: &Peer,
        sent: Sent,
    ) -> Response<Body> {
        if let Some((access, begun)) = sent.timed {
            access.upstream(begun.elapsed());
            if forwarded.as_ref().is_ok_and(is_accepted) {
                access.accepted();
            }
        }
        forwarded.unwrap_or_else(|error| {
            let (status, reason) = (error.status(), error.reason());
            log_failure(
                &self.quotas,
                peer,
                sent.trace.as_ref(),
                status,
                reason,
                &error,
            );
            error.into_response()
        })
    }

    /// Answers a rejected request, and logs it.
    pub fn reject(&self, rejected: &Rejected<Received>, peer: &Peer) -> Response<Body> {
        reject(&self.quotas, rejected, peer)
    }
}

impl Sent {
    /// Takes the entry out of a request, and sets the `traceparent` that is sent upstream.
    fn of(request: &mut Checked) -> Self {
        let access = request.0.extensions_mut().remove::<Access>();
        if let Some(access) = &access {
            access.pass_on(request.0.headers_mut());
        }
        Self {
            trace: match &access {
                Some(access) => access.trace().cloned(),
                None => TraceContext::in_fields(request.headers()),
            },
            timed: access.map(|access| (access, Instant::now())),
        }
    }
}

/// Returns whether an upstream's answer shows that it accepts the credential of the request. A server may give the
/// other answers before it has verified the caller.
fn is_accepted(response: &Response<Body>) -> bool {
    let is_before_verification = matches!(
        response.status(),
        StatusCode::BAD_REQUEST
            | StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::URI_TOO_LONG
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            | StatusCode::SERVICE_UNAVAILABLE
    );
    // A gRPC call gets its refusal as a head with a status of gRPC.
    !is_before_verification && !response.headers().contains_key("grpc-status")
}

/// Logs the fault for which a request of `peer` in this trace is answered with `status`, within the quotas. A
/// fault of the caller is a warning, and any other is an error.
pub fn log_failure(
    quotas: &LogQuotas,
    peer: &Peer,
    trace: Option<&TraceContext>,
    status: StatusCode,
    reason: Reason,
    fault: impl Display,
) {
    let refused = || RefusedRequest::new(status, reason, &fault, peer);
    let Some(left_out) = quotas.note(status, peer.source(), refused) else {
        return;
    };
    let is_callers = !status.is_server_error();
    let status = status.as_u16();
    let [trace_id, span_id] = TraceContext::ids(trace);
    if is_callers {
        warn!(%peer, status, %reason, trace_id, span_id, left_out, "{fault}")
    } else {
        error!(%peer, status, %reason, trace_id, span_id, left_out, "{fault}")
    }
}

/// Answers a rejected request of `peer`, and logs it within the quotas.
pub fn reject(quotas: &LogQuotas, rejected: &Rejected<Received>, peer: &Peer) -> Response<Body> {
    let Rejected { request, rejection } = rejected;
    let (status, reason) = (rejection.status(), rejection.reason());
    let noted = quotas.note_fault_of_caller(peer.source(), || {
        RefusedRequest::new(status, reason, rejection, peer)
            .of(request.method().as_str(), request.uri().path())
            .claimed_by(request.headers())
    });
    if let Some(left_out) = noted {
        let status = status.as_u16();
        let method = Sanitized(request.method().as_str());
        let path = Sanitized(request.uri().path());
        let [trace_id, span_id] = TraceContext::ids_in(request.headers());
        match rejection {
            Rejection::OwnHop => {
                info!(%method, %path, %peer, status, %reason, trace_id, span_id, left_out, "{rejection}");
            }
            _ => {
                warn!(%method, %path, %peer, status, %reason, trace_id, span_id, left_out, "{rejection}");
            }
        }
    }
    rejection.into_response()
}

#[cfg(test)]
mod tests {
    use serve::body;

    use super::*;

    #[test]
    fn answer_that_may_come_before_verification_does_not_show_that_a_token_is_accepted_u035() {
        for (code, grpc, expected) in [
            (200, None, true),
            (101, None, true),
            (304, None, true),
            (404, None, true),
            (409, None, true),
            (500, None, true),
            (504, None, true),
            (400, None, false),
            (401, None, false),
            (403, None, false),
            (408, None, false),
            (413, None, false),
            (414, None, false),
            (429, None, false),
            (431, None, false),
            (503, None, false),
            (200, Some("16"), false),
            (200, Some("0"), false),
        ] {
            let mut response = body::status(StatusCode::from_u16(code).unwrap());
            if let Some(status) = grpc {
                let status = HeaderValue::from_static(status);
                response.headers_mut().insert("grpc-status", status);
            }
            assert_eq!(is_accepted(&response), expected, "{code} {grpc:?}");
        }
    }
}
