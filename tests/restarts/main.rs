//! Starts, stops and restarts of processes, and what callers notice of them.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Tests what a process that stops tells the callers of open connections.
mod farewell;
/// Kills processes with `kill -9` and starts them again.
mod killed;
/// Starts that fail, ports, drains and signals.
mod lifecycle;
/// Replaces a process by another on the same port or socket.
mod replaced;
