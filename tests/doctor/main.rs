//! Tests `--doctor` and `--explain-token`: real processes, with one fault each, and the whole output that they print.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Diagnoses the client with one fault after another.
mod client;
/// Reads the output of a doctor.
mod diagnosis;
/// Explains tokens, and compares each explanation with the verdict of a server.
mod explain;
/// Runs a server, and a proxy before it.
mod path;
/// Diagnoses the proxy with one fault after another.
mod proxy;
/// Diagnoses the server with one fault after another.
mod server;
/// Diagnoses the client with faults of its Workload API.
mod workload;
