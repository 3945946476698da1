//! Sends requests through binaries that export spans, and reads the spans in a collector. `scripts/otlp.sh` builds
//! these binaries, and runs these tests with them.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Receives spans, and takes them or not.
mod collector;
/// Breaks, delays and stops the export.
mod export;
/// Reads the spans with OpenTelemetry's own messages in Python.
mod python;
/// Follows one request through all roles.
mod spans;
/// Sends sampled requests whose callers are not verified.
mod strangers;
