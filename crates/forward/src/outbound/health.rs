//! How an endpoint that fails is left out, for a growing while. Pure: who asks says what time it is.

use std::time::Duration;

use common::backoff::Backoff;
use tokio::time::Instant;

/// The pauses of an endpoint that fails.
pub(super) const PAUSE: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// What is known of an endpoint's failures.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Since its last answer.
    failures: u32,
    /// How many answers it had given when it failed last.
    answers: u64,
    failed: Option<Instant>,
    left_out_until: Option<Instant>,
}

impl Health {
    /// It could not be connected to, or was silent; it has given `answers` so far. How long it is
    /// left out for; `chance` is from 0 to 1.
    pub(super) fn fails(&mut self, now: Instant, answers: u64, chance: f64) -> Duration {
        if answers != self.answers {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.answers = answers;
        let pause = pause(self.failures, chance);
        self.failed = Some(now);
        self.left_out_until = Some(now + pause);
        pause
    }

    /// It is connected to. Only an answer proves more than that: until then its next pause is longer.
    pub(super) fn connects(&mut self) {
        self.left_out_until = None;
    }

    /// Whether this failure was the first since its last answer.
    pub(super) fn is_first_failure(&self) -> bool {
        self.failures == 1
    }

    /// When it may be tried again, if it is left out at `now`.
    pub(super) fn left_out(&self, now: Instant) -> Option<Instant> {
        self.left_out_until.filter(|until| *until > now)
    }

    /// When it failed last.
    pub(super) fn failed(&self) -> Option<Instant> {
        self.failed
    }
}

/// From three quarters to five quarters of the doubled time: what failed together is not tried again
/// by all cores and proxies together.
fn pause(failures: u32, chance: f64) -> Duration {
    PAUSE.pause(failures).mul_f64(0.75 + chance / 2.0)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MIDDLE: f64 = 0.5;

    #[test]
    fn pauses_double_up_to_a_bound_and_are_spread() {
        for (failures, chance, seconds) in [
            (1, MIDDLE, 1.0),
            (2, MIDDLE, 2.0),
            (3, MIDDLE, 4.0),
            (5, MIDDLE, 16.0),
            (6, MIDDLE, 30.0),
            (u32::MAX, MIDDLE, 30.0),
            (1, 0.0, 0.75),
            (1, 1.0, 1.25),
            (9, 0.0, 22.5),
            (9, 1.0, 37.5),
        ] {
            assert_eq!(pause(failures, chance).as_secs_f64(), seconds, "{failures}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_comes_back_after_its_pause() {
        let mut health = Health::default();
        assert_eq!(health.left_out(Instant::now()), None);
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            let pause = health.fails(Instant::now(), 0, MIDDLE);
            assert_eq!(pause, Duration::from_secs(seconds));
            assert_eq!(health.is_first_failure(), seconds == 1);
            let until = Instant::now() + pause;
            advance(pause - Duration::from_millis(1)).await;
            assert_eq!(health.left_out(Instant::now()), Some(until));
            advance(Duration::from_millis(1)).await;
            assert_eq!(health.left_out(Instant::now()), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_answer_makes_the_next_pause_short_again() {
        let mut health = Health::default();
        health.fails(Instant::now(), 7, MIDDLE);
        health.connects();
        assert_eq!(health.left_out(Instant::now()), None, "in use at once");
        let pause = health.fails(Instant::now(), 7, MIDDLE);
        assert_eq!(pause, PAUSE.pause(2), "it connects and is silent");
        health.connects();
        let pause = health.fails(Instant::now(), 8, MIDDLE);
        assert_eq!(pause, PAUSE.pause(1), "it had answered");
        assert!(health.is_first_failure());
    }
}
