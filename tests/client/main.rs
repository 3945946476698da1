//! The client: what it sends, what it prints, and how it ends.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Runs the client with `--repeat`, which makes one request after another.
mod repeat;
/// Makes one request and looks at what is sent and printed.
mod requests;
