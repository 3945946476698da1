//! How many refusals go to the log: a flood of bad tokens must not become a flood of lines.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lines that may be logged in one [`PERIOD`].
const LINES: u64 = 100;

const PERIOD: Duration = Duration::from_secs(1);

/// Lets through 100 lines a second, and counts the rest.
#[derive(Debug)]
pub struct LogQuota(Mutex<Counts>);

#[derive(Debug)]
struct Counts {
    since: Instant,
    asked: u64,
    left_out: u64,
}

impl LogQuota {
    /// Nothing logged yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Mutex::new(Counts {
            since: Instant::now(),
            asked: 0,
            left_out: 0,
        }))
    }

    /// Whether a line may be logged now; if so, how many were left out since the last one, if any.
    pub fn take(&self) -> Option<Option<u64>> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.take(Instant::now())
    }
}

impl Default for LogQuota {
    fn default() -> Self {
        Self::new()
    }
}

impl Counts {
    fn take(&mut self, now: Instant) -> Option<Option<u64>> {
        if now.duration_since(self.since) >= PERIOD {
            (self.since, self.asked) = (now, 0);
        }
        self.asked += 1;
        if self.asked > LINES {
            self.left_out += 1;
            return None;
        }
        let left_out = std::mem::take(&mut self.left_out);
        Some((left_out > 0).then_some(left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_told_in_the_next_period() {
        let start = Instant::now();
        let mut counts = Counts {
            since: start,
            asked: 0,
            left_out: 0,
        };
        let logged = (0..1000).filter(|_| counts.take(start).is_some()).count();
        assert_eq!(logged, 100);
        assert_eq!(counts.take(start + PERIOD), Some(Some(900)));
        assert_eq!(counts.take(start + PERIOD), Some(None));
    }
}
