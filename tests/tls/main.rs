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

use harness::PATIENCE;

/// Asks again until `wanted` says so: what happens in another process takes a while.
async fn until<F: Future<Output = bool>>(mut wanted: impl FnMut() -> F) {
    let asking = async {
        while !wanted().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .expect("takes effect in time");
}
