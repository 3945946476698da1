//! Tests starts, stops and restarts of processes, and what callers notice of them.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Stops processes that a load balancer must leave first.
mod delayed;
/// Tests how a process that drains ends open connections.
mod drained;
/// Kills processes with `kill -9` and starts them again.
mod killed;
/// Tests starts that fail, ports, drains and signals.
mod lifecycle;
/// Tests what a service manager is told of the life of a process.
mod notified;
/// Replaces a process by another on the same port or socket.
mod replaced;
/// Tests the sandbox of processes.
mod sandboxed;
/// Checks the units of deploy/systemd.
mod units;
