//! Tests TLS and SPIFFE on both sides (conformance P178–P201 and D45–D51): which handshakes
//! succeed, and which certificates are accepted.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Tests the listener's certificate, versions, ALPN and SNI.
mod callers;
/// Tests callers and proxies that present certificates.
mod certificates;
/// Tests connections and identities that end.
mod endings;
/// Tests upstreams with an invalid certificate.
mod odd;
/// Tests sessions that callers resume, and sessions that end.
mod resumption;
/// Tests connections that end with the identity that their callers have verified, or by their age.
mod tenure;
