//! SIGTERM and SIGINT, which stop a process, and SIGHUP, which makes it read its files again.

use std::time::Duration;

use serve::shutdown::{self, Shutdown};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};
use tracing::info;

use crate::telemetry;

/// The SIGHUPs that this process gets.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// Handles SIGHUP from now on, which otherwise ends the process.
    ///
    /// # Errors
    /// Fails when the handler can't be installed.
    pub fn handle() -> std::io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Waits for the next SIGHUP.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending().await
        }
    }
}

/// Returns a stop that comes `delay` after another one.
pub(crate) fn delayed(shutdown: Shutdown, delay: Duration) -> Shutdown {
    if delay.is_zero() {
        return shutdown;
    }
    let (trigger, delayed) = shutdown::channel();
    tokio::spawn(async move {
        shutdown.requested().await;
        info!(
            "listening for another {} (--stop-delay)",
            humantime::format_duration(delay)
        );
        sleep(delay).await;
        trigger.stop();
    });
    delayed
}

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
