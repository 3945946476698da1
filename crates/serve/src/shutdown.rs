//! The request to stop, which tasks can wait for.

use tokio::sync::watch;

/// Waits for a stop. Clones wait for the same stop.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// Requests the stop of every [`Shutdown`] that was created with it; dropping it does so too.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// Returns a trigger and the stop that it requests.
#[must_use]
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Shutdown {
    /// Returns whether the stop is requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        // An error means that the trigger was dropped, which requests the stop too.
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits until the stop is requested.
    pub async fn requested(mut self) {
        // An error means that the trigger was dropped, which requests the stop too.
        let _ = self.0.wait_for(|&stop| stop).await;
    }
}

impl Trigger {
    /// Requests the stop.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}
