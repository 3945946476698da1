//! Logs: their form, outputs that nobody reads, and secrets that must not be in them.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Closes, fills and stalls the output that a log goes to.
mod output;
/// Searches logs at `RUST_LOG=trace`, and what others can read of a process, for tokens and keys.
mod secrets;
