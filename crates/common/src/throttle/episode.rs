//! What should not happen, and may happen a thousand times a second when it does: the log says when
//! it begins, how often it happened now and then, and when it is over.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tracing::{info, warn};

/// How often it is told while it goes on.
const EVERY: Duration = Duration::from_secs(60);

/// So long nothing must happen until it is over.
const QUIET: Duration = Duration::from_secs(2);

/// Counts what happens, and tells it.
#[derive(Debug)]
pub struct Episode {
    /// Told when it begins, and while it goes on.
    what: String,
    /// Told when it is over.
    over: &'static str,
    since_told: AtomicU64,
    goes_on: AtomicBool,
}

impl Episode {
    /// Returns an episode that has not begun. The log says `what` when it begins and while it goes on, and
    /// `over` when it has ended.
    #[must_use]
    pub fn new(what: String, over: &'static str) -> Arc<Self> {
        Arc::new(Self {
            what,
            over,
            since_told: AtomicU64::new(0),
            goes_on: AtomicBool::new(false),
        })
    }

    /// It happened once more.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn note(self: &Arc<Self>) {
        if self.begins() {
            warn!("{}", self.what);
        }
    }

    /// It happened once more, by this `error`.
    ///
    /// # Panics
    /// As [`Self::note`].
    pub fn note_error(self: &Arc<Self>, error: &impl fmt::Display) {
        if self.begins() {
            warn!(%error, "{}", self.what);
        }
    }

    fn begins(self: &Arc<Self>) -> bool {
        self.since_told.fetch_add(1, Relaxed);
        // Read first: a flood must not make the cores fight for the line.
        let begins = !self.goes_on.load(Relaxed) && !self.goes_on.swap(true, Relaxed);
        if begins {
            tokio::spawn(Arc::clone(self).tell());
        }
        begins
    }

    async fn tell(self: Arc<Self>) {
        let (mut total, mut untold, mut told) = (0, 0, Instant::now());
        loop {
            sleep(QUIET).await;
            let times = self.since_told.swap(0, Relaxed);
            if times == 0 {
                self.goes_on.store(false, Relaxed);
                info!(times = total, "{}", self.over);
                return;
            }
            total += times;
            untold += times;
            if told.elapsed() >= EVERY {
                warn!(times = untold, "{}", self.what);
                (untold, told) = (0, Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_over_when_nothing_happened_for_a_while_and_can_begin_again() {
        let episode = Episode::new("too much".into(), "enough");
        for _ in 0..2 {
            for _ in 0..25 {
                episode.note();
                assert!(episode.goes_on.load(Relaxed));
                sleep(Duration::from_secs(1)).await;
            }
            sleep(QUIET * 2).await;
            assert!(!episode.goes_on.load(Relaxed));
            assert_eq!(episode.since_told.load(Relaxed), 0);
        }
    }
}
