//! Tests of the agent over real sockets, as its callers see it.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are not covered by allow-unwrap-in-tests"
)]

/// Attestation: users, binaries, processes that end.
mod attestation;
/// The `:authority` of calls, which clients fill in differently.
mod authorities;
/// The binary: its command line, its log, its signals.
mod binary;
/// The conditions of any answer: the security header, a known method.
mod calls;
/// The control socket: commands, owners, malformed input.
mod control;
/// The command line of `dev-agent ctl`.
mod ctl;
/// The endpoint that serves the bundle, and the modes in which it misbehaves.
mod endpoint;
/// Two agents of two trust domains.
mod federation;
/// JWT-SVIDs, their bundles and their validation.
mod jwt;
/// An agent that withdraws, stalls, stops and restarts.
mod lifecycle;
/// OIDC discovery for validators that do not speak SPIFFE.
mod oidc;
/// The agent as a client of bundle endpoints.
mod partners;
/// The binary as a process of its own.
mod process;
/// The `spiffe` crate as a client, as the project's binaries use it.
mod sources;
/// An agent and a raw client in a temporary directory.
mod support;
/// Raw requests, down to single frames.
mod wire;
/// X.509-SVIDs, their bundles and their streams.
mod x509;
