//! The reasons why a connection ends early.

use common::{cause, tls::refused_certificate};
use tokio_rustls::rustls;

use super::{activity::Overdue, upgrade};
use crate::reason::ConnectionReason;

/// The reason why a connection ended early. It is routine and logged at debug level.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("no TLS handshake, or no first bytes without TLS, in time")]
    HandshakeTimeout,
    #[error("closed before its first request to make room for a newer connection")]
    HandshakeEvicted,
    #[error("stopping")]
    Stopping,
    #[error("a request in flight outlasted the drain")]
    NotDrained,
    #[error("TLS handshake: {0}")]
    Handshake(std::io::Error),
    #[error("first bytes without TLS: {0}")]
    Plaintext(std::io::Error),
    #[error("the peer's certificate has no identity")]
    NoIdentity,
    #[error("{0}")]
    Overdue(#[from] Overdue),
    #[error("the peer does not answer")]
    Dead,
    #[error("closed for another source's request")]
    Evicted,
    #[error("{0}")]
    Tunnel(#[from] upgrade::Error),
    #[error("{0}")]
    Http1(#[from] hyper::Error),
    #[error("{0}")]
    Http2(#[from] h2::Error),
}

impl Error {
    /// Returns the reason why the connection was not served, if it ended before its first request could come.
    pub(crate) fn reason(&self) -> Option<ConnectionReason> {
        match self {
            Self::HandshakeTimeout => Some(ConnectionReason::HandshakeTimeout),
            Self::HandshakeEvicted => Some(ConnectionReason::MaxHandshakes),
            Self::Stopping => Some(ConnectionReason::Stopping),
            Self::Handshake(error) => Some(match cause::find::<rustls::Error>(error) {
                None => ConnectionReason::HandshakeBroken,
                Some(_) if refused_certificate(error).is_some() => ConnectionReason::Certificate,
                Some(_) => ConnectionReason::Tls,
            }),
            Self::Plaintext(_) => Some(ConnectionReason::HandshakeBroken),
            Self::NoIdentity => Some(ConnectionReason::Certificate),
            _ => None,
        }
    }
}
