//! SIGTERM and SIGINT, which stop a process.

use serve::shutdown::{self, Shutdown};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use crate::telemetry;

/// Returns a stop that the first SIGTERM or SIGINT requests. The second one ends the process at
/// once, with status 1.
///
/// # Errors
/// Fails when the handlers can't be installed.
pub fn shutdown() -> std::io::Result<Shutdown> {
    let (trigger, shutdown) = shutdown::channel();
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let signal = next().await;
        info!(signal, "stopping: finishing what is in flight");
        trigger.stop();
        let signal = next().await;
        info!(signal, "stopping at once");
        telemetry::flush();
        std::process::exit(1)
    });
    Ok(shutdown)
}
