//! The tasks on the main thread that report the state of the process to the service manager.

use std::{sync::Arc, time::Duration};

use common::workload::{Monitor, Overview, Readiness, StreamStatus};
use serve::shutdown::Shutdown;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::error;

use super::{ServiceManager, WAITING};
use crate::runtime::Cores;

/// The interval between two status lines of an identity that is degraded. The line has the time that is
/// left.
const EVERY: Duration = Duration::from_secs(5);

/// The time that a drain may take beyond its timeout.
const AFTER_DRAIN: Duration = Duration::from_secs(10);

impl ServiceManager {
    /// Tells what an identity waits for, and of each change of its state.
    pub fn follow_identity(&self, monitor: &Monitor) {
        if self.0.socket.is_none() {
            return;
        }
        let manager = self.clone();
        let mut overview = monitor.subscribe();
        tokio::spawn(async move {
            loop {
                let told = overview.borrow_and_update().clone();
                match (&told.readiness, obstacle(&told)) {
                    (Some(readiness), _) => manager.identity(readiness),
                    (None, Some(reason)) => manager.waiting(&format!("{WAITING}: {reason}")),
                    (None, None) => {}
                }
                let is_degraded = matches!(told.readiness, Some(Readiness::Degraded { .. }));
                let is_news = |now: &Arc<Overview>| {
                    now.readiness != told.readiness || obstacle(now) != obstacle(&told)
                };
                tokio::select! {
                    changed = overview.wait_for(is_news) => if changed.is_err() {
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
                if cores.ping(pause).await {
                    manager.send("WATCHDOG=1")
                } else {
                    error!(within = ?pause, "a core does not run: the service manager's watchdog gets no sign of life")
                }
            }
        });
    }
}

/// Returns the reason for which a start waits, if there is one.
fn obstacle(overview: &Overview) -> Option<&str> {
    overview.streams.iter().find_map(StreamStatus::obstacle)
}
