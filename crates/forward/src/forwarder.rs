//! Forwards requests: cleans a checked request, sends it, checks the answer and cleans that.

use common::tls::ClientTls;
use http::{Response, Version};
use serve::{body::Body, peer::Peer};

use crate::{
    body::CleanBody,
    check::{Checked, check_response},
    error::Error,
    headers,
    outbound::{Caller, Client, Upstream},
};

/// Forwards requests to one upstream. Belongs to one core, as its connections do.
#[derive(Debug)]
pub struct Forwarder {
    client: Client<CleanBody>,
}

impl Forwarder {
    /// Returns a forwarder to `upstream`, whose identity `tls` verifies ([`common::tls::client`]).
    ///
    /// # Panics
    /// Panics outside a tokio runtime, or if the upstream has no URL.
    #[must_use]
    pub fn new(upstream: Upstream, tls: ClientTls) -> Self {
        Self {
            client: Client::new(upstream, tls),
        }
    }

    /// Forwards one request that came from `peer` and returns the upstream's answer. Bodies and
    /// trailers stream both ways.
    ///
    /// # Errors
    /// Fails when the upstream gives no valid answer.
    pub async fn forward(&self, request: Checked, peer: &Peer) -> Result<Response<Body>, Error> {
        let caller = Caller {
            source: peer.source(),
            eviction: request.0.body().eviction(),
        };
        let takes_trailers = headers::takes_trailers(&request.0);
        let request = request.cleaned(self.client.upstream().url(), peer);
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
