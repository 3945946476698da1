//! Tests the requests, the output and the end of the client.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Runs the client with `--repeat`, which makes one request after another.
mod repeat;
/// Makes one request and checks what is sent and printed.
mod requests;
/// Keeps a token in a file for applications.
mod token_file;
