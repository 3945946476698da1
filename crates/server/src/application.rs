//! The application behind the authentication: the built-in answer, or an upstream.

use std::sync::Arc;

use common::{
    bearer::{Caller, Credential},
    sanitize::Sanitized,
    throttle::LogQuotas,
};
use forward::{
    Checked, FieldPolicy, Forwarder, LoggedForwarder,
    outbound::{Security, Upstream},
};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use serve::{
    Received,
    access::Access,
    body::{self, Body},
    peer::Peer,
};
use tracing::info;

use crate::lifetime::StreamLifetime;

/// An application that requests are forwarded to.
#[derive(Clone, Debug)]
pub struct Forwarding {
    /// The addresses of the application.
    pub upstream: Upstream,
    /// The security of the connections to it.
    pub security: Security,
    /// The choices about the fields of forwarded requests.
    pub fields: FieldPolicy,
    /// The field that carries the caller's SPIFFE ID.
    pub caller_header: HeaderName,
    /// The end of streams.
    pub stream_lifetime: StreamLifetime,
}

/// The application of one core.
#[derive(Clone, Debug)]
pub(crate) enum Application {
    /// Answers `/` with `Success!!!`.
    BuiltIn,
    /// Forwards requests, with the caller's SPIFFE ID in a field.
    Forwarded(Forwarded),
}

/// An application of one core that requests are forwarded to.
#[derive(Clone, Debug)]
pub(crate) struct Forwarded {
    forwarder: Arc<LoggedForwarder>,
    caller_header: HeaderName,
    stream_lifetime: StreamLifetime,
}

impl Application {
    /// Returns the application of one core.
    pub(crate) fn new(forwarding: Option<Forwarding>, quotas: &Arc<LogQuotas>) -> Self {
        let Some(forwarding) = forwarding else {
            return Self::BuiltIn;
        };
        let Forwarding {
            upstream,
            security,
            fields,
            caller_header,
            stream_lifetime,
        } = forwarding;
        let forwarder = Forwarder::new(upstream, security, fields);
        Self::Forwarded(Forwarded {
            forwarder: Arc::new(LoggedForwarder::new(forwarder, Arc::clone(quotas))),
            caller_header,
            stream_lifetime,
        })
    }

    /// Answers a request that the policy lets through. Its caller is verified, or not known.
    pub(crate) async fn answer(
        &self,
        mut request: Request<Received>,
        logs_beginning: bool,
    ) -> Response<Body> {
        let extensions = request.extensions_mut();
        let Some(peer) = extensions.get::<Peer>().cloned() else {
            return body::status(StatusCode::INTERNAL_SERVER_ERROR);
        };
        // The caller is removed because it holds its token, which is not needed while the exchange lasts.
        let caller = extensions.remove::<Caller>();
        if let Some(access) = extensions.get::<Access>() {
            access.verified(caller.as_ref().map(|caller| &caller.id));
        }
        if logs_beginning {
            log(&request, caller.as_ref(), &peer);
        }
        match self {
            Self::BuiltIn => match request.uri().path() {
                "/" => body::text(StatusCode::OK, "Success!!!"),
                _ => body::status(StatusCode::NOT_FOUND),
            },
            Self::Forwarded(forwarded) => forwarded.answer(request, caller, &peer).await,
        }
    }
}

impl Forwarded {
    /// Forwards a request, with the ID of its caller.
    async fn answer(
        &self,
        mut request: Request<Received>,
        caller: Option<Caller>,
        peer: &Peer,
    ) -> Response<Body> {
        let expiry = self.stream_lifetime.expiry(&request, caller.as_ref(), peer);
        if let Some(expiry) = &expiry {
            expiry.bound_stream_of(&mut request);
        }
        let id = caller.map(|caller| HeaderValue::try_from(caller.id.to_string()));
        let Ok(id) = id.transpose() else {
            return body::status(StatusCode::INTERNAL_SERVER_ERROR);
        };
        let id = id.map(|id| (self.caller_header.clone(), id));
        let request = match Checked::new(request) {
            Ok(request) => request,
            Err(rejected) => return self.forwarder.reject(&rejected, peer),
        };
        // The future is boxed so that a built-in answer does not pay for its size.
        let answering = Box::pin(self.forwarder.forward(request, peer, id));
        match expiry {
            None => answering.await,
            Some(expiry) => Box::pin(expiry.bound(answering)).await,
        }
    }
}

/// Logs a request. The query is not logged, because callers put secrets there.
pub(crate) fn log<B>(request: &Request<B>, caller: Option<&Caller>, peer: &Peer) {
    let method = Sanitized(request.method().as_str());
    let path = Sanitized(request.uri().path());
    let is_certificate = caller.is_some_and(|one| one.credential == Credential::Certificate);
    let credential = is_certificate.then_some("certificate");
    let caller = caller.map(|caller| tracing::field::display(&caller.id));
    info!(caller, credential, %method, %path, %peer, "Request received");
}
