//! Tests which requests the server accepts and which it refuses, alone and behind the proxy.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Sends requests that are accepted, over every combination of HTTP versions.
mod accepted;
/// Runs server and proxy in the test's own process.
mod in_process;
/// Sends requests that the server refuses, by reason.
mod refused;
/// Asks the server for tunnels, which it does not open.
mod tunnels;
