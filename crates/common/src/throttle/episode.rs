//! Log lines for an event that may repeat a thousand times a second.
//!
//! The log has a line when the events begin, one a minute with their number, and one when they have
//! ended.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tracing::{field::display, info, warn};

use crate::reason::Reason;

/// The interval between the lines of an episode that continues.
const EVERY: Duration = Duration::from_secs(60);

/// The time without an event after which an episode is over.
const QUIET: Duration = Duration::from_secs(2);

/// Counts repeated events and logs them as one episode.
#[derive(Debug)]
pub struct Episode {
    /// The log text when the episode begins and while it continues.
    what: String,
    /// The log text when the episode is over.
    over: &'static str,
    /// The reason of the requests that are refused meanwhile.
    reason: Option<Reason>,
    /// The number of events since the task last read it.
    recent: AtomicU64,
    continues: AtomicBool,
}

impl Episode {
    /// Returns an episode that has not begun. The log has `what` when it begins and while it continues,
    /// and `over` when it has ended.
    #[must_use]
    pub fn new(what: String, over: &'static str) -> Arc<Self> {
        Self::with(what, over, None)
    }

    /// Returns an episode as [`Self::new`] does, in which requests are refused for this reason.
    #[must_use]
    pub fn refusing(reason: Reason, what: String, over: &'static str) -> Arc<Self> {
        Self::with(what, over, Some(reason))
    }

    fn with(what: String, over: &'static str, reason: Option<Reason>) -> Arc<Self> {
        Arc::new(Self {
            what,
            over,
            reason,
            recent: AtomicU64::new(0),
            continues: AtomicBool::new(false),
        })
    }

    /// Counts an event, and logs it if the episode begins with it.
    ///
    /// # Panics
    /// Panics when it is called outside a tokio runtime.
    pub fn note(self: &Arc<Self>) {
        if self.begins() {
            warn!(reason = self.reason.map(display), "{}", self.what);
        }
    }

    /// Counts an event that `error` caused, and logs both if the episode begins with it.
    ///
    /// # Panics
    /// Panics when it is called outside a tokio runtime.
    pub fn note_error(self: &Arc<Self>, error: &impl fmt::Display) {
        if self.begins() {
            warn!(%error, reason = self.reason.map(display), "{}", self.what);
        }
    }

    fn begins(self: &Arc<Self>) -> bool {
        self.recent.fetch_add(1, Relaxed);
        // Reads the flag before it writes it, so that in a flood the cores do not pass its cache line
        // from one to another.
        let begins = !self.continues.load(Relaxed) && !self.continues.swap(true, Relaxed);
        if begins {
            tokio::spawn(Arc::clone(self).watch());
        }
        begins
    }

    /// Logs how the episode continues, until it is over.
    async fn watch(self: Arc<Self>) {
        let (mut total, mut unlogged, mut logged) = (0, 0, Instant::now());
        loop {
            sleep(QUIET).await;
            let times = self.recent.swap(0, Relaxed);
            if times == 0 {
                self.continues.store(false, Relaxed);
                info!(times = total, "{}", self.over);
                return;
            }
            total += times;
            unlogged += times;
            if logged.elapsed() >= EVERY {
                let reason = self.reason.map(display);
                warn!(times = unlogged, reason, "{}", self.what);
                (unlogged, logged) = (0, Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_episode_ends_after_a_quiet_time_and_can_begin_again() {
        let episode = Episode::new("too much".into(), "enough");
        for _ in 0..2 {
            for _ in 0..25 {
                episode.note();
                assert!(episode.continues.load(Relaxed));
                sleep(Duration::from_secs(1)).await;
            }
            sleep(QUIET * 2).await;
            assert!(!episode.continues.load(Relaxed));
            assert_eq!(episode.recent.load(Relaxed), 0);
        }
    }
}
