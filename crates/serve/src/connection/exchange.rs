//! One request and its answer, in either HTTP version.
//!
//! The module checks the bounds on the request's head, calls the handler, and answers in its place when
//! a bound is exceeded.

use std::{
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{Arc, Mutex},
};

use common::{reason::Reason, throttle::LogQuotas};
use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode, header::CONTENT_LENGTH};
use http_body::Body as _;
use tokio::time::Instant;
use tracing::error;

use super::{
    activity::Activity,
    date,
    received::{BodyKind, Received},
    refused,
    request::RequestInFlight,
    upgrade::Tunnel,
};
use crate::{
    access::Noted,
    body::{Body, Wire},
    grpc,
    handler::Handler,
    limits::Limits,
    peer::Peer,
    websocket::WebSocket,
};

/// The handler, the bounds and the activity that all requests of a connection share.
pub(super) struct Serving<H> {
    pub(super) handler: H,
    pub(super) peer: Peer,
    pub(super) limits: Limits,
    /// Limits the log lines about requests that exceed a bound.
    pub(super) quotas: Arc<LogQuotas>,
    /// The log and the spans for which requests have entries, if there are any.
    pub(super) noted: Option<Noted>,
    pub(super) activity: Arc<Activity>,
    /// The tunnel that an HTTP/1.1 connection becomes after its last answer.
    pub(super) tunnel: Mutex<Option<Tunnel>>,
}

/// The properties of a request that the form of its answer depends on.
struct Asked {
    kind: BodyKind,
    is_connect: bool,
    /// The end of the time that the caller gives a gRPC call.
    deadline: Option<Instant>,
}

impl Asked {
    fn by(request: &Request<Wire>) -> Self {
        let kind = if request.extensions().get::<WebSocket>().is_some() {
            BodyKind::Socket
        } else if grpc::is_call(request) {
            BodyKind::Call
        } else {
            BodyKind::Plain
        };
        let is_connect = *request.method() == Method::CONNECT;
        let deadline = match kind {
            BodyKind::Call => grpc::deadline(request.headers(), Instant::now()),
            _ => None,
        };
        Self {
            kind,
            is_connect,
            deadline,
        }
    }

    /// Replaces an answer that would switch protocols unasked.
    fn settle(&self, response: Response<Body>) -> Response<Body> {
        let status = response.status();
        match self.kind {
            // Another answer to CONNECT than that of a WebSocket must not make a tunnel.
            _ if self.is_connect && status.is_success() => refused::connect(),
            BodyKind::Plain | BodyKind::Call if status == StatusCode::SWITCHING_PROTOCOLS => {
                refused::internal()
            }
            _ => response,
        }
    }

    /// Returns the answer in the form of the caller's protocol. A gRPC call gets a gRPC status for an error of this
    /// process, by its `reason` and the moment `now`.
    fn in_form(
        &self,
        response: Response<Body>,
        reason: Option<Reason>,
        now: Instant,
    ) -> Response<Body> {
        let status = response.status();
        let is_error = status.is_client_error() || status.is_server_error();
        // An upstream's answer is streamed, and one of this process is not.
        let is_own = !response.body().is_streamed();
        match self.kind {
            BodyKind::Call if is_error && is_own => {
                let is_late = self.deadline.is_some_and(|end| now >= end);
                grpc::answer(response, reason, is_late)
            }
            _ => response,
        }
    }
}

impl<H: Handler> Serving<H> {
    /// Returns the answer of the handler, or one in its place if the request exceeds a bound or its body
    /// breaks off.
    pub(super) async fn answer(
        &self,
        mut request: Request<Wire>,
        in_flight: &Arc<RequestInFlight>,
    ) -> Response<Body> {
        let asked = Asked::by(&request);
        if let Some(noted) = &self.noted
            && let Some(access) = in_flight.log_access(&request, &self.peer, noted)
        {
            request.extensions_mut().insert(access);
        }
        let refused = if in_flight.is_admitted() {
            self.over_bounds(&request)
        } else {
            let has_body = !request.body().is_end_stream();
            Some(refused::overloaded(Reason::Overloaded, has_body))
        };
        let request = request.map(|body| Received::new(body, &self.limits, asked.kind, in_flight));
        let mut response = match refused {
            Some(refused) => refused,
            None => tokio::select! {
                response = self.handle(request) => response,
                () = in_flight.evicted() => refused::overloaded(Reason::Evicted, true),
            },
        };
        if let Some(fault) = in_flight.fault() {
            response = refused::answer(fault);
        }
        response = asked.settle(response);
        let (now, reason) = (Instant::now(), response.extensions_mut().remove());
        in_flight.answers(response.status(), reason, now);
        response = asked.in_form(response, reason, now);
        date::set(response.headers_mut(), now.into_std());
        if matches!(
            response.status(),
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        ) {
            response = without_body(response);
        }
        response
    }

    /// Returns the answer to a request whose head exceeds a bound, and logs it.
    fn over_bounds(&self, request: &Request<Wire>) -> Option<Response<Body>> {
        let reason = refused::over_bounds(request, &self.limits)?;
        refused::log(request, &self.peer, reason, &self.quotas);
        Some(refused::answer(reason))
    }

    /// Calls the handler. A panic in it ends this request only.
    async fn handle(&self, request: Request<Received>) -> Response<Body> {
        let answering = AssertUnwindSafe(pin!(self.handler.handle(request, &self.peer)));
        answering.catch_unwind().await.unwrap_or_else(|_| {
            let reason = Reason::Internal;
            error!(peer = %self.peer, %reason, "the handler panicked: answering 500");
            refused::internal()
        })
    }
}

/// Removes the body of a 204 or 304 answer. The length of a 204 is removed too (RFC 9110 §8.6). A 304 has
/// the length of the answer to a GET (§15.4.5).
fn without_body(mut response: Response<Body>) -> Response<Body> {
    if response.status() == StatusCode::NO_CONTENT {
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    response.map(|_| Body::empty())
}
