//! Runs third-party applications behind and in front of our binaries.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Starts an application behind our binaries.
mod app;
/// Checks the callers of Envoy.
mod envoy;
/// Calls servers in Go by clients in Go.
mod go;
/// Calls a gRPC server in Python by a gRPC client in Python.
mod grpc;
/// Sends requests through nginx.
mod nginx;
/// Installs packages of Python and runs programs with them.
mod python;
/// Opens WebSockets of a server in Python by a client in Python.
mod websocket;
