//! Tests `--doctor`: real processes, with one fault each, and the whole output that they print.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Diagnoses the client with one fault after another.
mod client;
/// Reads the output of a doctor.
mod diagnosis;
