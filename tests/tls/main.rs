//! TLS and SPIFFE on both sides (conformance P178–P201 and D45–D51): who is let in to a handshake,
//! and which certificates are believed.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// What callers meet: certificate, versions, ALPN, SNI.
mod callers;
/// Connections and identities that end.
mod endings;
/// Upstreams whose certificate is not as it should be.
mod odd;
/// Sessions that callers resume, and those that end.
mod resumption;
