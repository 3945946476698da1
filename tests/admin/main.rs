//! Asks the admin listeners of real processes, and provokes each condition.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Sends bundles that cannot be used.
mod bundles;
/// Asks clients that listen, keep a token, or repeat requests.
mod client;
/// Tests addresses that are refused, and Unix sockets.
mod flags;
/// Sends requests that are refused: other hosts, origins and methods, and too many of them.
mod guard;
/// Stops a core.
mod live;
/// Replaces the log filter.
mod log;
/// Opens the status page, also in a browser.
mod page;
/// Provokes the conditions of an identity, of a start and of a stop.
mod ready;
/// Compares the status line of a service, `/ready`, the metrics and the log.
mod told;
/// Stops upstreams.
mod upstream;
