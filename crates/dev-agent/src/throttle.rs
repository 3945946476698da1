//! A bound for log lines that callers can cause as fast as they connect.

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;

use crate::lock::lock;

/// The time in which at most one line is logged.
const PERIOD: Duration = Duration::from_secs(1);

/// Lets one line through in each second. One throttle belongs to one kind of line.
#[derive(Default)]
pub(crate) struct Throttle(Mutex<Option<Instant>>);

impl Throttle {
    /// Calls `log`, unless it was called less than a second ago.
    pub(crate) fn log(&self, log: impl FnOnce()) {
        let now = Instant::now();
        let mut last = lock(&self.0);
        if last.is_none_or(|last| now - last >= PERIOD) {
            *last = Some(now);
            drop(last);
            log();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_is_logged_in_each_second() {
        let throttle = Throttle::default();
        let mut logged = 0;
        for _ in 0..30 {
            throttle.log(|| logged += 1);
            tokio::time::advance(PERIOD / 10).await;
        }
        assert_eq!(logged, 3);
    }
}
