//! A budget for resets of streams on a shared connection.

use std::time::Duration;

use tokio::time::Instant;

/// The resets of streams that a connection has left. Servers end a connection for too many (Netty: 200
/// in 30 s; nghttp2 and Node: 1,000, and 33 a second), and all callers share it.
#[derive(Debug)]
pub(super) struct Resets {
    left: u32,
    refilled: Instant,
}

/// The most resets of a connection at once, and in a second.
const RESETS_AT_ONCE: u32 = 100;
const RESETS_EACH_SECOND: u32 = 3;

impl Resets {
    /// Begins with a full budget.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            left: RESETS_AT_ONCE,
            refilled: now,
        }
    }

    /// Takes one reset. Returns whether one was left.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let seconds = (now - self.refilled).as_secs();
        if seconds > 0 {
            self.refilled += Duration::from_secs(seconds);
            let more = u32::try_from(seconds).unwrap_or(u32::MAX);
            let more = more.saturating_mul(RESETS_EACH_SECOND);
            self.left = self.left.saturating_add(more).min(RESETS_AT_ONCE);
        }
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }
}

impl Default for Resets {
    fn default() -> Self {
        Self::new(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_refilled_by_the_second_up_to_a_bound() {
        let start = Instant::now();
        let mut resets = Resets::new(start);
        let taken = |resets: &mut Resets, now| (0..1000).filter(|_| resets.take(now)).count();
        assert_eq!(taken(&mut resets, start), 100);
        assert_eq!(taken(&mut resets, start + Duration::from_secs(1)), 3);
        assert_eq!(taken(&mut resets, start + Duration::from_secs(3)), 6);
        assert_eq!(taken(&mut resets, start + Duration::from_secs(3600)), 100);
    }

    #[test]
    fn resets_stay_below_200_in_30_s() {
        let start = Instant::now();
        let mut resets = Resets::new(start);
        let window = (0..300).map(|tenth| start + Duration::from_millis(tenth * 100));
        let taken = window
            .flat_map(|now| [now; 50])
            .filter(|now| resets.take(*now));
        assert!(taken.count() < 200);
    }
}
