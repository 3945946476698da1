//! The server, alone and behind the proxy: which requests get through, and which are refused.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Sends requests that get through, over every combination of HTTP versions.
mod accepted;
/// Sends requests that the server refuses, by reason.
mod refused;
