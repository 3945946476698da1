//! The tasks on the main thread that tell the service manager how the process is.

use std::time::Duration;

use common::workload::Readiness;
use serve::shutdown::Shutdown;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::error;

use super::ServiceManager;
use crate::runtime::Cores;

/// The interval between two status lines of an identity that is degraded. The line has the time that is
/// left.
const EVERY: Duration = Duration::from_secs(5);

/// The time that a drain may take beyond its timeout.
const AFTER_DRAIN: Duration = Duration::from_secs(10);

impl ServiceManager {
    /// Tells of each change of the identity from now on.
    pub fn follow_identity(&self, mut readiness: watch::Receiver<Readiness>) {
        if !self.is_present() {
            return;
        }
        let manager = self.clone();
        tokio::spawn(async move {
            loop {
                let now = readiness.borrow_and_update().clone();
                manager.identity(&now);
                let is_degraded = matches!(now, Readiness::Degraded { .. });
                tokio::select! {
                    changed = readiness.changed() => if changed.is_err() {
                        return;
                    },
                    () = sleep(EVERY), if is_degraded => {}
                }
            }
        });
    }

    /// Tells of a stop when it is requested. The drain after it takes up to `drain_timeout`.
    pub fn follow_stop(&self, shutdown: Shutdown, drain_timeout: Duration) {
        let manager = self.clone();
        tokio::spawn(async move {
            shutdown.requested().await;
            manager.stopping(drain_timeout + AFTER_DRAIN);
        });
    }

    /// Gives the manager's watchdog a sign of life for as long as this thread and all cores run.
    pub fn follow_cores(&self, cores: Cores) {
        let Some(wanted) = self.0.watchdog else {
            return;
        };
        let manager = self.clone();
        tokio::spawn(async move {
            let pause = wanted / 3;
            let mut signs = interval(pause);
            signs.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                signs.tick().await;
                match cores.ping(pause).await {
                    true => manager.send("WATCHDOG=1"),
                    false => {
                        error!(within = ?pause, "a core does not run: the service manager's watchdog gets no sign of life")
                    }
                }
            }
        });
    }
}
