//! A request → check → clean → a verified upstream → check → clean → its answer.
//!
//! Knows nothing of flags or of which binary it is in.
//!
//! - `target`: method, target and `Host` · `framing`: where messages end · `headers`: what crosses
//! - `via`: the hops of a message, and requests that go in a circle
//! - [`Rejection`]: why a request is not forwarded · [`Error`]: why it has no answer of the upstream's

mod body;
mod error;
mod framing;
mod headers;
pub mod outbound;
#[cfg(test)]
mod properties;
mod rejection;
mod target;
mod via;

use common::tls::ClientTls;
use http::{Method, Request, Response, Uri, Version};
use serve::{Received, body::Body, peer::Peer};

pub use self::{
    body::WithoutTrailers,
    error::Error,
    rejection::{Rejected, Rejection},
};
use crate::outbound::{Caller, Client, Upstream};

/// Forwards requests to one upstream. Belongs to one core, as its connections do.
#[derive(Debug)]
pub struct Forwarder {
    client: Client<WithoutTrailers>,
}

/// A request that is fit to be forwarded: it means the same to every reader.
#[derive(Debug)]
pub struct Checked<B = Received>(Request<B>);

impl<B: http_body::Body> Checked<B> {
    /// Checks method, target, `Host`, framing and fields that must not be doubled.
    ///
    /// # Errors
    /// When the request is answered here instead.
    pub fn new(request: Request<B>) -> Result<Self, Box<Rejected<B>>> {
        match check_request(&request) {
            Ok(()) => Ok(Self(request)),
            Err(rejection) => Err(Self(request).rejected(rejection)),
        }
    }

    /// Rejects the request for a reason of the caller of this function.
    #[must_use]
    pub fn rejected(self, rejection: Rejection) -> Box<Rejected<B>> {
        let Self(request) = self;
        Box::new(Rejected { request, rejection })
    }

    /// Returns the method.
    #[must_use]
    pub fn method(&self) -> &Method {
        self.0.method()
    }

    /// The path that is asked for; no other reader of it is needed to decide by.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.uri().path()
    }

    /// What is sent to `upstream` (scheme and authority) for it: what the caller may say, and what
    /// is known of `peer`, who sent it.
    #[must_use]
    pub fn cleaned(self, upstream: &Uri, peer: &Peer) -> Request<WithoutTrailers<B>> {
        let Self(mut request) = self;
        headers::clean_request(&mut request, peer);
        *request.uri_mut() = target::upstream_url(upstream, request.uri());
        request.map(WithoutTrailers)
    }
}

impl Forwarder {
    /// Forwards to `upstream`, whose identity `tls` verifies ([`common::tls::client`]).
    ///
    /// # Panics
    /// Outside a tokio runtime, or if the upstream has no URL.
    #[must_use]
    pub fn new(upstream: Upstream, tls: Outgoing) -> Self {
        Self {
            client: Client::new(upstream, tls),
        }
    }

    /// Forwards one request that came from `peer` and returns the upstream's answer. Bodies stream
    /// both ways, without trailers.
    ///
    /// # Errors
    /// When there is no answer of the upstream's to return.
    pub async fn forward(&self, request: Checked, peer: &Peer) -> Result<Response<Body>, Error> {
        let caller = Caller {
            source: peer.source(),
            eviction: request.0.body().eviction(),
        };
        let request = request.cleaned(self.client.upstream().url(), peer);
        let answer = self.client.request_checked(request, caller, check_response);
        let mut response = answer.await?;
        headers::clean_response(&mut response);
        // The version is each connection's own (RFC 9110 §2.5).
        *response.version_mut() = Version::HTTP_11;
        Ok(response.map(|answer| Body::streamed(WithoutTrailers(answer))))
    }
}

fn check_request<B>(request: &Request<B>) -> Result<(), Rejection> {
    target::check(request)?;
    framing::check_request(request.headers())?;
    headers::check_request(request)
}

/// Checks that an upstream's response means the same to every reader; the reason if not.
fn check_response<B>(response: &Response<B>) -> Result<(), &'static str> {
    framing::check_response(response)?;
    headers::check_response_size(response.headers())?;
    headers::check_names(response.headers())
}
