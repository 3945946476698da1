//! Forwards requests: cleans a checked request, sends it, checks the answer and cleans that.

use http::{HeaderName, HeaderValue, Response, Version};
use serve::{body::Body, peer::Peer};

use crate::{
    body::CleanBody,
    check::{Checked, check_response},
    error::Error,
    headers::{self, Fields},
    outbound::{Caller, Client, Security, Upstream},
};

/// Forwards requests to one upstream. Belongs to one core, as its connections do.
#[derive(Debug)]
pub struct Forwarder {
    client: Client<CleanBody>,
    fields: Fields,
}

impl Forwarder {
    /// Returns a forwarder to `upstream`, whose connections are secured by `security`.
    ///
    /// # Panics
    /// Panics outside a tokio runtime, or if the upstream has no URL.
    #[must_use]
    pub fn new(upstream: Upstream, security: Security, fields: Fields) -> Self {
        Self {
            client: Client::new(upstream, security),
            fields,
        }
    }

    /// Forwards one request that came from `peer` and returns the upstream's answer. Bodies and
    /// trailers stream both ways. `set` replaces fields that have its name.
    ///
    /// # Errors
    /// Fails when the upstream gives no valid answer.
    pub async fn forward(
        &self,
        request: Checked,
        peer: &Peer,
        set: Option<(HeaderName, HeaderValue)>,
    ) -> Result<Response<Body>, Error> {
        let caller = Caller {
            source: peer.source(),
            eviction: request.0.body().eviction(),
        };
        let takes_trailers = headers::takes_trailers(&request.0);
        let mut request = request.cleaned(peer, &self.fields);
        if let Some((name, value)) = set {
            request.headers_mut().insert(name, value);
        }
        let answered = self.client.request_for(request, &caller).await?;
        let mut response = match check_response(answered.response()) {
            Ok(()) => answered.accept(),
            Err(reason) => return Err(answered.reject(reason).into()),
        };
        let rules = headers::clean_response(&mut response, takes_trailers);
        // The version is each connection's own (RFC 9110 §2.5).
        *response.version_mut() = Version::HTTP_11;
        Ok(response.map(|body| Body::streamed(CleanBody::new(body, rules))))
    }
}
