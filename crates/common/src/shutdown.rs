//! SIGTERM and SIGINT as a value that everything can wait for.

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::info;

use crate::telemetry;

/// Whether a stop was asked for. Clones wait for the same stop.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// Asks for the stop of every [`Shutdown`] that came with it; so does dropping it.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// A stop to wait for and what asks for it.
#[must_use]
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

/// A stop that the first SIGTERM or SIGINT asks for. The second ends the process at once.
///
/// # Errors
/// When the handlers can't be installed.
pub fn on_signal() -> std::io::Result<Shutdown> {
    let (trigger, shutdown) = channel();
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

impl Shutdown {
    /// Returns once a stop was asked for.
    pub async fn requested(mut self) {
        // An error means that the trigger was dropped: nobody is left who could ask.
        let _ = self.0.wait_for(|&stop| stop).await;
    }
}

impl Trigger {
    /// Asks for the stop.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}
