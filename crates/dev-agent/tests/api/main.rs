//! The agent as its callers see it, over real sockets.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are not covered by allow-unwrap-in-tests"
)]

/// Who a caller is: users, binaries, processes that end.
mod attestation;
/// The binary: its command line, its first words, its signals.
mod binary;
/// What must come before any answer: the security header, a known method.
mod calls;
/// The control socket: levers, owners, odd input.
mod control;
/// `dev-agent ctl`, as people and scripts call it.
mod ctl;
/// Two agents of two trust domains.
mod federation;
/// JWT-SVIDs, their bundles and their validation.
mod jwt;
/// Withdrawn, stalled, stopped and started.
mod lifecycle;
/// The binary as a process of its own.
mod process;
/// The same through the `spiffe` crate, as the project's binaries use it.
mod sources;
/// An agent and a raw client in a temporary directory.
mod support;
/// Requests by hand, down to single frames.
mod wire;
/// X.509-SVIDs, their bundles and their streams.
mod x509;
