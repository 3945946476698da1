//! Exponential backoff.

use std::time::Duration;

/// Returns the pause after this many failures in a row. It doubles with each, from `first` to `max`.
pub(crate) fn pause(failures: u32, first: Duration, max: Duration) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    first.saturating_mul(1 << doublings).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let [first, max] = [5, 18].map(Duration::from_millis);
        for (failures, milliseconds) in [(1, 5), (2, 10), (3, 18), (u32::MAX, 18)] {
            assert_eq!(pause(failures, first, max).as_millis(), milliseconds);
        }
        assert_eq!(pause(u32::MAX, max, Duration::MAX), max * (1 << 31));
    }
}
