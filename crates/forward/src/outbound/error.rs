//! Why a request got no answer, by whose fault.

use std::io;

use common::{cause, sanitize::Sanitized};
use http::StatusCode;
use spiffe::SpiffeId;

pub use super::origin::At;
use super::{connector::Fault, retry::Failure};

/// A request without an answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The target is verified to be somebody else.
    #[error("{at} is not who it should be: expected {expected}, presented {presented}")]
    Impostor {
        /// Where it was connected to.
        at: At,
        /// Who should have been there.
        expected: SpiffeId,
        /// Who was.
        presented: SpiffeId,
    },
    /// No verified connection: refused, no such host, a certificate not trusted.
    #[error("cannot connect to {at} as {expected}: {cause}")]
    Connect {
        /// Where it was connected to.
        at: At,
        /// Who should have been there.
        expected: SpiffeId,
        /// What went wrong, the whole chain of causes.
        cause: String,
    },
    /// There is nothing to verify it by: the own identity was withdrawn, or has expired.
    #[error("cannot verify {0}: no identity is issued to this process at present")]
    NoTrust(At),
    /// Longer to connect to than it may take.
    #[error("cannot connect to {0}: {1}")]
    ConnectTimeout(At, String),
    /// Longer to answer than it may take.
    #[error("{0} did not answer in time")]
    ResponseTimeout(At),
    /// The request's own body failed before the answer.
    #[error("the request body failed: {0}")]
    RequestBody(String),
    /// All connections that there may be are full, for longer than a request may wait.
    #[error("no room on the connections to {0} {1}")]
    Full(At, String),
    /// The target broke off, or answered with what is no HTTP response.
    #[error("{0} failed: {1}")]
    Failed(At, String),
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
            Self::NoTrust(_) | Self::Full(..) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Without a connection.
    pub(super) fn unconnected(fault: &Fault, at: At, expected: SpiffeId) -> Self {
        let error = match fault {
            Fault::Timeout(_) => return Self::ConnectTimeout(at, fault.to_string()),
            Fault::Io(error) => error,
        };
        if let Some(spiffe_rustls::Error::UnauthorizedSpiffeId(presented)) = cause::find(error) {
            return Self::Impostor {
                at,
                expected,
                presented: presented.clone(),
            };
        }
        let cause = match cause::find(error) {
            Some(spiffe_rustls::Error::TrustDomainNotAllowed(domain)) => {
                format!("it presented a SPIFFE ID of trust domain {domain}")
            }
            _ => quoted(error),
        };
        Self::Connect {
            at,
            expected,
            cause,
        }
    }

    /// Without an address.
    pub(super) fn unresolved(error: &io::Error, at: At, expected: SpiffeId) -> Self {
        Self::Connect {
            at,
            expected,
            cause: format!("no address for its name: {error}"),
        }
    }

    /// On a connection.
    pub(super) fn unanswered(failure: &Failure, at: At) -> Self {
        Self::Failed(at, quoted(failure))
    }

    /// By the request's own body.
    pub(super) fn request_body(cause: String) -> Self {
        Self::RequestBody(Sanitized(cause).to_string())
    }
}

/// The whole chain of causes, some of which quote the peer: what it wrote into a GOAWAY, or into its
/// certificate.
fn quoted(error: &(dyn std::error::Error + 'static)) -> String {
    Sanitized(cause::chain(error)).to_string()
}
