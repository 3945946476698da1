//! Why a request got no answer, by whose fault.

use http::{StatusCode, Uri};
use spiffe::SpiffeId;

use super::{Target, connector::ConnectTimeout};
use crate::cause;

/// A request without an answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The target is verified to be somebody else.
    #[error("{url} is not who it should be: expected {expected}, presented {presented}")]
    Impostor {
        /// Where it was connected to.
        url: Uri,
        /// Who should have been there.
        expected: SpiffeId,
        /// Who was.
        presented: SpiffeId,
    },
    /// No verified connection: refused, no such host, a certificate not trusted.
    #[error("cannot connect to {url} as {expected}: {cause}")]
    Connect {
        /// Where it was connected to.
        url: Uri,
        /// Who should have been there.
        expected: SpiffeId,
        /// What went wrong, the whole chain of causes.
        cause: String,
    },
    /// There is nothing to verify it by: the own identity was withdrawn, or has expired.
    #[error("cannot verify {0}: no identity is issued to this process at present")]
    NoTrust(Uri),
    /// Longer to connect to than it may take.
    #[error("cannot connect to {0}: {1}")]
    ConnectTimeout(Uri, String),
    /// Longer to answer than it may take.
    #[error("{0} did not answer in time")]
    ResponseTimeout(Uri),
    /// The request's own body failed before the answer.
    #[error("the request body failed: {0}")]
    RequestBody(String),
    /// The target broke off, or answered with what is no HTTP response.
    #[error("{0} failed: {1}")]
    Failed(Uri, String),
}

impl Error {
    /// The status that a proxy answers with. The one place where this error becomes a status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Impostor { .. } | Self::Connect { .. } | Self::Failed(..) => {
                StatusCode::BAD_GATEWAY
            }
            Self::ConnectTimeout(..) | Self::ResponseTimeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::RequestBody(_) => StatusCode::BAD_REQUEST,
            Self::NoTrust(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(super) fn new(error: &hyper_util::client::legacy::Error, target: &Target) -> Self {
        let (url, expected) = (target.url.clone(), target.id.clone());
        if let Some(spiffe_rustls::Error::UnauthorizedSpiffeId(presented)) = cause::find(error) {
            return Self::Impostor {
                url,
                expected,
                presented: presented.clone(),
            };
        }
        if let Some(spiffe_rustls::Error::TrustDomainNotAllowed(_)) = cause::find(error) {
            let cause = "it presented a SPIFFE ID of another trust domain".to_owned();
            return Self::Connect {
                url,
                expected,
                cause,
            };
        }
        if let Some(timeout) = cause::find::<ConnectTimeout>(error) {
            return Self::ConnectTimeout(url, timeout.to_string());
        }
        // hyper-util's own text says nothing that the variants don't.
        let cause = cause::chain(std::error::Error::source(error).unwrap_or(error));
        if error.is_connect() {
            return Self::Connect {
                url,
                expected,
                cause,
            };
        }
        match cause::find::<hyper::Error>(error) {
            Some(error) if error.is_user() => Self::RequestBody(cause),
            _ => Self::Failed(url, cause),
        }
    }
}
