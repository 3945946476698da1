//! Exponential backoff.

use std::time::Duration;

/// A pause between attempts that doubles with each failure in a row, up to a bound.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
}

impl Backoff {
    /// Returns a backoff whose first pause is `first` and whose longest is `max`.
    #[must_use]
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max }
    }

    /// Returns the pause after this many failures in a row.
    #[must_use]
    pub fn pause(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.max)
    }

    /// Returns the longest pause.
    #[must_use]
    pub const fn max(&self) -> Duration {
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound() {
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(300));
        for (failures, milliseconds) in [
            (0, 50),
            (1, 50),
            (2, 100),
            (3, 200),
            (4, 300),
            (u32::MAX, 300),
        ] {
            assert_eq!(backoff.pause(failures).as_millis(), milliseconds);
        }
    }
}
