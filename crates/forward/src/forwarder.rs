//! Forwards requests: cleans a checked request, sends it, checks the answer and cleans that.

use std::future::Ready;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};
use serve::{body::Body, peer::Peer};

use crate::{
    body::CleanBody,
    check::{Checked, check_response},
    error::Error,
    headers::{self, Fields},
    outbound::{Caller, Client, Security, Upstream},
};

/// The type of a renewal that never happens.
type Never = fn(StatusCode, &HeaderMap) -> Option<Ready<Option<(HeaderName, HeaderValue)>>>;

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
        self.exchange(request, peer, set, None::<Never>).await
    }

    /// Forwards a request as [`Self::forward`] does. If `renew` gives a future for the head of the answer,
    /// and that another field, the request is sent once more with this field. That is possible if its body
    /// is small. `renew` decides whether it is safe.
    ///
    /// # Errors
    /// Fails when the upstream gives no valid answer.
    pub async fn forward_renewing<R>(
        &self,
        request: Checked,
        peer: &Peer,
        set: Option<(HeaderName, HeaderValue)>,
        renew: impl FnOnce(StatusCode, &HeaderMap) -> Option<R>,
    ) -> Result<Response<Body>, Error>
    where
        R: Future<Output = Option<(HeaderName, HeaderValue)>>,
    {
        self.exchange(request, peer, set, Some(renew)).await
    }

    async fn exchange<R>(
        &self,
        request: Checked,
        peer: &Peer,
        set: Option<(HeaderName, HeaderValue)>,
        renew: Option<impl FnOnce(StatusCode, &HeaderMap) -> Option<R>>,
    ) -> Result<Response<Body>, Error>
    where
        R: Future<Output = Option<(HeaderName, HeaderValue)>>,
    {
        let caller = Caller {
            source: peer.source(),
            eviction: request.0.body().eviction(),
        };
        let takes_trailers = headers::takes_trailers(&request.0);
        let mut request = request.cleaned(peer, &self.fields);
        if let Some((name, value)) = set {
            request.headers_mut().insert(name, value);
        }
        let request = Client::prepare(request).await?;
        let again = renew.and_then(|renew| Some((renew, request.copy()?)));
        let mut answered = self.client.send(request, &caller).await?;
        if let Some((renew, mut again)) = again {
            let head = answered.response();
            if let Some(renewing) = renew(head.status(), head.headers())
                && let Some((name, value)) = renewing.await
            {
                drop(answered.accept());
                again.head.headers.insert(name, value);
                answered = self.client.send(again, &caller).await?;
            }
        }
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
