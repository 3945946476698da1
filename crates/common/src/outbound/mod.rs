//! Requests to a target that is verified by its SPIFFE ID before the first byte of a request: over
//! pooled connections, HTTP/2 or 1.1 as the target offers, under deadlines.
//!
//! Knows nothing of flags or of which binary it is in. One [`Client`] belongs to one core: its
//! pooled connections are that core's own.

mod connector;
mod error;
mod pool;
mod stream;
mod upload;

use std::time::Duration;

use http::{Request, Response, Uri, Version};
use http_body::Body;
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy;
use spiffe::SpiffeId;

pub use self::error::Error;
use self::{
    pool::Pool,
    upload::{Outgoing, Upload},
};
use crate::tls;

/// Where requests go, who must be there, and how long it may take.
#[derive(Clone, Debug)]
pub struct Target {
    /// Scheme (`https`), host and port.
    pub url: Uri,
    /// The SPIFFE ID that every connection is verified to have.
    pub id: SpiffeId,
    /// For TCP and TLS handshakes together.
    pub connect_timeout: Duration,
    /// How long the target may take no part of the request's body and not begin to answer. The time
    /// that the body's source takes is not counted, nor the response's body.
    pub response_timeout: Duration,
}

/// Sends requests to one target.
#[derive(Debug)]
pub struct Client<B> {
    target: Target,
    pool: Pool<Outgoing<B>>,
}

impl<B> Client<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static,
{
    /// Sends to `target`; `tls` verifies who it is ([`crate::tls::client`]).
    #[must_use]
    pub fn new(target: Target, tls: tls::Outgoing) -> Self {
        let pool = Pool::new(tls, target.connect_timeout);
        Self { target, pool }
    }

    /// Where its requests go.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Sends one request; its URI has the target's scheme and authority. Returns the answer with its
    /// body still streaming.
    ///
    /// # Errors
    /// When there is no answer, by whose fault.
    pub async fn request(&self, request: Request<B>) -> Result<Response<Incoming>, Error> {
        self.request_checked(request, |_| Ok(())).await
    }

    /// As [`Self::request`], where `check` may find the answer's head unacceptable: new requests then
    /// use new connections.
    ///
    /// # Errors
    /// When there is no answer, or none that is acceptable, by whose fault.
    pub async fn request_checked(
        &self,
        request: Request<B>,
        check: impl FnOnce(&Response<Incoming>) -> Result<(), &'static str>,
    ) -> Result<Response<Incoming>, Error> {
        let (upload, mut request) = watched(request);
        // The connection decides what is spoken; a request marked HTTP/2 would be refused on HTTP/1.1.
        *request.version_mut() = Version::HTTP_11;
        let response = tokio::select! {
            response = self.pool.current().request(request) => {
                response.map_err(|error| self.error(&error))?
            }
            () = upload.stalled(self.target.response_timeout) => {
                return Err(Error::ResponseTimeout(self.target.url.clone()));
            }
        };
        if let Err(reason) = check(&response) {
            self.pool.renew();
            return Err(Error::Failed(self.target.url.clone(), reason.to_owned()));
        }
        Ok(response)
    }

    fn error(&self, error: &legacy::Error) -> Error {
        match error.is_connect() && !self.pool.is_usable() {
            true => Error::NoTrust(self.target.url.clone()),
            false => Error::new(error, &self.target),
        }
    }
}

fn watched<B>(request: Request<B>) -> (Upload, Request<Outgoing<B>>) {
    let (head, body) = request.into_parts();
    let (upload, body) = Upload::of(body);
    (upload, Request::from_parts(head, body))
}
