//! Makes a known number of requests of each kind, and reads exactly that number from `/metrics`.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Calls through a listening client, and fetches tokens.
mod client;
/// Compares the pages of all roles with `deploy/metrics.md` and `promtool`.
mod document;
/// Moves the gauges that no other test moves.
mod gauges;
/// Rotates, breaks and stops the Workload API.
mod identity;
/// Sends requests through a proxy to upstreams that answer, break and restart.
mod proxy;
/// Provokes each reason that the other tests do not.
mod reasons;
/// Sends requests to a server, with tokens of all kinds.
mod server;
