//! The error of a request that got no answer, and the status that it becomes.

use std::io;

use common::{cause, reason::Reason, sanitize::Sanitized, tls::PeerError};
use http::StatusCode;
use spiffe::{SpiffeId, TrustDomain};

use super::{body_fault::BodyFault, connector::Fault, origin::At, retry::Failure};

/// A request got no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The upstream was verified, and has another identity.
    #[error("{at} is not who it should be: expected {expected}, presented {presented}")]
    Impostor {
        /// The endpoint that was connected to.
        at: At,
        /// The identity that it should have.
        expected: SpiffeId,
        /// The identity that it has.
        presented: SpiffeId,
    },
    /// No connection could be opened, because it was refused, the host does not exist, or the
    /// certificate is not trusted.
    #[error("cannot connect to {at}{}: {cause}", as_expected(expected.as_ref()))]
    Connect {
        /// The endpoint that was connected to.
        at: At,
        /// The identity that it should have, if it is verified by one.
        expected: Option<SpiffeId>,
        /// The whole chain of causes.
        cause: String,
    },
    /// The upstream can't be verified, because no bundle may be used. The own identity was withdrawn or
    /// has expired, or the Workload API sends no usable bundle.
    #[error("cannot verify {0}: no trust bundle may be used at present")]
    NoTrust(At),
    /// The upstream can't be verified, because its trust domain has no bundle here.
    #[error(
        "cannot verify {at}: no X.509 bundle for trust domain {trust_domain}; federate with it, and register this \
         process with -federatesWith spiffe://{trust_domain}"
    )]
    NoBundle {
        /// The endpoint that would be connected to.
        at: At,
        /// The trust domain of the identity that it should have.
        trust_domain: TrustDomain,
    },
    /// Connecting took longer than it may.
    #[error("cannot connect to {0}: {1}")]
    ConnectTimeout(At, String),
    /// The answer took longer than it may.
    #[error("{0} did not answer in time")]
    ResponseTimeout(At),
    /// The request's own body failed before the answer.
    #[error("the request body failed: {0}")]
    RequestBody(BodyFault),
    /// All connections that there may be were full for longer than a request may wait.
    #[error("no room on the connections to {0} {1}")]
    Full(At, String),
    /// The upstream cancelled the request before its answer (`CANCEL` of RFC 9113 §7).
    #[error("{0} cancelled the request")]
    Cancelled(At),
    /// The upstream broke off, or its answer is not a valid HTTP response.
    #[error("{0} failed: {1}")]
    Failed(At, String),
}

impl Error {
    /// Returns the status that a proxy answers with. This is the one place where the error becomes a
    /// status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Impostor { .. }
            | Self::Connect { .. }
            | Self::NoBundle { .. }
            | Self::Cancelled(_)
            | Self::Failed(..) => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout(..) | Self::ResponseTimeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::RequestBody(fault) => fault.status(),
            Self::NoTrust(_) | Self::Full(..) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Returns the reason, whose code is for the log and the metrics.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Impostor { .. } => Reason::UpstreamIdentity,
            Self::Connect { .. } => Reason::UpstreamConnect,
            Self::NoTrust(_) => Reason::UpstreamNoBundles,
            Self::NoBundle { .. } => Reason::UpstreamTrustDomain,
            Self::ConnectTimeout(..) => Reason::UpstreamConnectTimeout,
            Self::ResponseTimeout(_) => Reason::UpstreamTimeout,
            Self::RequestBody(fault) => fault.reason,
            Self::Full(..) => Reason::UpstreamFull,
            Self::Cancelled(_) => Reason::UpstreamCancelled,
            Self::Failed(..) => Reason::UpstreamFailed,
        }
    }

    /// Returns the error of a request for which no connection could be opened.
    pub(super) fn unconnected(fault: &Fault, at: At, expected: Option<SpiffeId>) -> Self {
        let error = match fault {
            Fault::Io(error) => error,
            Fault::Timeout(_) => return Self::ConnectTimeout(at, fault.to_string()),
            Fault::NoTrust => return Self::NoTrust(at),
            Fault::NoBundle(trust_domain) => {
                let trust_domain = trust_domain.clone();
                return Self::NoBundle { at, trust_domain };
            }
            Fault::Http(failure) => return Self::unanswered(failure, at),
            Fault::OnlyHttp2 => return Self::Failed(at, fault.to_string()),
        };
        if let Some(PeerError::UnauthorizedSpiffeId(presented)) = cause::find(error)
            && let Some(expected) = expected
        {
            return Self::Impostor {
                at,
                expected,
                presented: presented.clone(),
            };
        }
        let cause = match cause::find::<PeerError>(error) {
            Some(fault) => Sanitized(fault.to_string()).to_string(),
            None => quoted(error),
        };
        Self::Connect {
            at,
            expected,
            cause,
        }
    }

    /// Returns the error of a request for which no address was found.
    pub(super) fn unresolved(error: &io::Error, at: At, expected: Option<SpiffeId>) -> Self {
        Self::Connect {
            at,
            expected,
            cause: format!("no address for its name: {error}"),
        }
    }

    /// Returns the error of a request that failed on its connection.
    pub(super) fn unanswered(failure: &Failure, at: At) -> Self {
        if failure.is_cancel() {
            Self::Cancelled(at)
        } else {
            Self::Failed(at, quoted(failure))
        }
    }

    /// Returns the error of a connection that broke off as it switched protocols.
    pub(crate) fn broken(at: At, error: &hyper::Error) -> Self {
        Self::Failed(at, quoted(error))
    }
}

/// Returns the part of a text that names the expected identity, if there is one.
fn as_expected(expected: Option<&SpiffeId>) -> String {
    expected.map_or_else(String::new, |id| format!(" as {id}"))
}

/// Returns the whole chain of causes, sanitized because some quote the peer's GOAWAY or certificate.
fn quoted(error: &(dyn std::error::Error + 'static)) -> String {
    let text = Sanitized(cause::chain(error)).to_string();
    // The alert is known by its text alone, because h2 does not return the error that caused its own.
    if text.contains("alert: CertificateRequired") {
        format!("it requires a certificate ({text})")
    } else {
        text
    }
}
