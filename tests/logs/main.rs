//! Tests the form of logs and of the help, outputs that nobody reads, and that no secret is in a log.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Reads the help of each program on terminals of two widths.
mod help;
/// Closes, fills and blocks the output of a log.
mod output;
/// Finds the code of each refusal in logs, and the paragraph of each code.
mod refusals;
/// Asks for an access log.
mod requests;
/// Searches logs at `RUST_LOG=trace`, and what others can read of a process, for tokens and keys.
mod secrets;
