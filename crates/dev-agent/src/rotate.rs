//! Rotation on timers. The timers read the wall clock often, so that a machine that was suspended
//! catches up at once.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::{MissedTickBehavior, interval};

use crate::state::State;

/// The time between two readings of the clock.
const TICK: Duration = Duration::from_millis(250);
/// The longest time that a new key is published before it is used.
const MAX_LEAD: Duration = Duration::from_secs(5);
/// The time that a key outlives what it signed, for verifiers whose clock is behind.
const MARGIN: Duration = Duration::from_secs(10);

/// Rotates at the times of the configuration, for as long as the future is polled.
pub(crate) async fn rotate(state: Arc<State>) {
    let config = &state.config;
    let start = SystemTime::now();
    let ca_every = config.rotate_ca_every.unwrap_or(Duration::MAX);
    let mut leaves = Schedule::new(config.rotate_x509_every, start);
    let mut cas = Schedule::new(Some(ca_every.min(config.ca_ttl / 2)), start);
    let mut jwt_keys = Schedule::new(config.rotate_jwt_key_every, start);
    // The timers use only keys that they published themselves, a known time ago.
    let (mut next_ca, mut next_jwt_key) = (None, None);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = SystemTime::now();
        match cas.step(now) {
            Some(Step::Prepare) => next_ca = state.prepare_ca(),
            Some(Step::Activate) => {
                if let Some(ca) = next_ca.take() {
                    state.activate_ca(&ca, Some(now + config.max_x509_ttl() + MARGIN));
                }
            }
            None => {}
        }
        match jwt_keys.step(now) {
            Some(Step::Prepare) => next_jwt_key = state.prepare_jwt_key(),
            Some(Step::Activate) => {
                if let Some(key) = next_jwt_key.take() {
                    state.activate_jwt_key(&key, Some(now + config.max_jwt_ttl() + MARGIN));
                }
            }
            None => {}
        }
        if leaves.step(now) == Some(Step::Activate) {
            state.reissue();
        }
        state.reissue_due();
        state.drop_expired();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Publish the next key.
    Prepare,
    /// Use the published key.
    Activate,
}

/// The times at which the next key is published and used.
struct Schedule {
    every: Option<Duration>,
    activated: SystemTime,
    prepared: bool,
}

impl Schedule {
    fn new(every: Option<Duration>, now: SystemTime) -> Self {
        Self {
            every,
            activated: now,
            prepared: false,
        }
    }

    /// Returns the step that is due at `now`. There is at most one at a time, so that a key is
    /// published before it is used even if the timers are late.
    fn step(&mut self, now: SystemTime) -> Option<Step> {
        let every = self.every?;
        // The period starts again after the clock was set back.
        let age = now.duration_since(self.activated).unwrap_or_else(|_| {
            self.activated = now;
            Duration::ZERO
        });
        let lead = (every / 4).min(MAX_LEAD);
        if !self.prepared && age >= every - lead {
            self.prepared = true;
            return Some(Step::Prepare);
        }
        if self.prepared && age >= every {
            self.prepared = false;
            self.activated = now;
            return Some(Step::Activate);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_prepared_before_it_is_used_w142() {
        let start = SystemTime::now();
        let mut schedule = Schedule::new(Some(Duration::from_secs(60)), start);
        for (seconds, expected) in [
            (0, None),
            (54, None),
            (55, Some(Step::Prepare)),
            (59, None),
            (60, Some(Step::Activate)),
            (61, None),
            (115, Some(Step::Prepare)),
            // The machine was suspended meanwhile.
            (1000, Some(Step::Activate)),
            (1001, None),
            (5000, Some(Step::Prepare)),
            (5001, Some(Step::Activate)),
        ] {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(schedule.step(now), expected, "after {seconds} s");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_restarts_the_period_w076() {
        let start = SystemTime::now();
        let mut schedule = Schedule::new(Some(Duration::from_secs(4)), start);
        let back = start - Duration::from_secs(3600);
        assert_eq!(schedule.step(back), None);
        assert_eq!(
            schedule.step(back + Duration::from_secs(3)),
            Some(Step::Prepare)
        );
        assert_eq!(
            schedule.step(back + Duration::from_secs(4)),
            Some(Step::Activate)
        );
    }

    #[test]
    fn nothing_is_rotated_without_a_period() {
        let start = SystemTime::now();
        let mut schedule = Schedule::new(None, start);
        assert_eq!(schedule.step(start + Duration::from_secs(1 << 30)), None);
    }
}
