//! The whole path with real processes, real sockets and real TLS, over a dev-agent of its own for
//! each test. Binaries come from the same target directory: `scripts/test.sh` builds them first.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Requests that get through, over every combination of HTTP versions.
mod accepted;
/// Large bodies in both directions, in bounded memory.
mod bodies;
/// What the client prints and refuses.
mod client;
/// Upstream connections that outlive what they were verified by.
mod drained;
/// What a process that stops says on connections that are open.
mod farewell;
/// Every combination of our binaries and go-spiffe's.
mod interop;
/// `kill -9`, and the start after it.
mod killed;
/// Stopping, ports, and start-up that fails.
mod lifecycle;
/// Logs: their form, and what becomes of them when nobody reads.
mod logs;
/// What is known of an identity that is lost, late, or withdrawn.
mod readiness;
/// Requests that the server refuses, by reason.
mod refused;
/// The client that makes one request after another.
mod repeat;
/// A process that is replaced by another: no caller notices.
mod restart;
/// Identity that changes under running processes.
mod rotation;
/// What the proxy sends once more, and what never.
mod sent_again;
/// Several upstreams: who gets what, who is left out, restarts.
mod spread;
/// An upstream that is absent, slow, or somebody else.
mod upstream;
/// Three processes of three Unix users, as root.
mod users;
