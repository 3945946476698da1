//! Runs applications that nobody here wrote behind and in front of our binaries.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Checks the callers of Envoy.
mod envoy;
/// Calls a gRPC server in Python by a gRPC client in Python.
mod grpc;
/// Installs packages of Python and runs programs with them.
mod python;
