//! Ejects an endpoint that fails, for a growing while. The time is an argument.

use std::time::Duration;

use common::backoff::Backoff;
use tokio::time::Instant;

/// The times for which an endpoint that fails is ejected.
pub(super) const PAUSE: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// The failures of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// The failures since the last answer.
    failures: u32,
    /// The number of answers before the last failure.
    answers: u64,
    failed: Option<Instant>,
    ejected_until: Option<Instant>,
}

impl Health {
    /// Notes that the endpoint could not be connected to or was silent, after `answers` in all. Returns
    /// the time for which it is ejected; `chance` is from 0 to 1.
    pub(super) fn note_failure(&mut self, now: Instant, answers: u64, chance: f64) -> Duration {
        if answers != self.answers {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.answers = answers;
        let pause = pause(self.failures, chance);
        self.failed = Some(now);
        self.ejected_until = Some(now + pause);
        pause
    }

    /// Notes that the endpoint was connected to. Its next pause is still longer, because only an answer
    /// shows that it works.
    pub(super) fn note_connected(&mut self) {
        self.ejected_until = None;
    }

    /// Returns whether the last failure was the first since the last answer.
    pub(super) fn is_first_failure(&self) -> bool {
        self.failures == 1
    }

    /// Returns the time of the next attempt, if the endpoint is ejected at `now`.
    pub(super) fn ejected(&self, now: Instant) -> Option<Instant> {
        self.ejected_until.filter(|until| *until > now)
    }

    /// Returns the time of the last failure.
    pub(super) fn failed(&self) -> Option<Instant> {
        self.failed
    }
}

/// Returns from three quarters to five quarters of the doubled time. Cores and proxies therefore do not
/// all try an endpoint again at the same moment.
fn pause(failures: u32, chance: f64) -> Duration {
    PAUSE.pause(failures).mul_f64(0.75 + chance / 2.0)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MIDDLE: f64 = 0.5;

    #[test]
    fn pauses_double_up_to_a_bound_and_vary_by_chance() {
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
        assert_eq!(health.ejected(Instant::now()), None);
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            let pause = health.note_failure(Instant::now(), 0, MIDDLE);
            assert_eq!(pause, Duration::from_secs(seconds));
            assert_eq!(health.is_first_failure(), seconds == 1);
            let until = Instant::now() + pause;
            advance(pause - Duration::from_millis(1)).await;
            assert_eq!(health.ejected(Instant::now()), Some(until));
            advance(Duration::from_millis(1)).await;
            assert_eq!(health.ejected(Instant::now()), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_answer_makes_the_next_pause_short_again() {
        let mut health = Health::default();
        health.note_failure(Instant::now(), 7, MIDDLE);
        health.note_connected();
        assert_eq!(health.ejected(Instant::now()), None, "in use at once");
        let pause = health.note_failure(Instant::now(), 7, MIDDLE);
        assert_eq!(pause, PAUSE.pause(2), "it connects and is silent");
        health.note_connected();
        let pause = health.note_failure(Instant::now(), 8, MIDDLE);
        assert_eq!(pause, PAUSE.pause(1), "it had answered");
        assert!(health.is_first_failure());
    }
}
