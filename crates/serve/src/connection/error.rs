//! The reasons why a connection ends early.

use super::{activity::Overdue, upgrade};

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
