//! The file with the token, as a condition of the process.

use std::{
    sync::{Arc, Mutex},
    time::SystemTime,
};

use common::lock::lock;
use process::admin::conditions::{Condition, Conditions, State};

/// The condition that the file has a current token.
#[derive(Clone, Debug, Default)]
pub(super) struct FileCondition(Arc<Mutex<Shown>>);

/// The state of the file after the last attempt to write or remove it.
#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    /// True if the file has what belongs there.
    is_settled: bool,
    /// The time at which the token in the file expires.
    expiry: Option<SystemTime>,
}

impl FileCondition {
    /// Adds it to the conditions of the process.
    pub(super) fn add_to(&self, conditions: &Conditions) {
        let shown = Arc::clone(&self.0);
        conditions.add(move |now| vec![lock(&shown).condition(now)]);
    }

    /// Records the state of the file, and the expiry of its token.
    pub(super) fn update(&self, is_settled: bool, expiry: Option<SystemTime>) {
        *lock(&self.0) = Shown { is_settled, expiry };
    }
}

impl Shown {
    fn condition(self, now: SystemTime) -> Condition {
        let condition = |state, reason: &str| Condition::new("token_file", state, reason);
        match (self.expiry.filter(|expiry| *expiry > now), self.is_settled) {
            (None, true) => condition(State::Lost, "no token is issued"),
            (None, false) => condition(State::Lost, "the file can't be kept current"),
            (Some(_), true) => condition(State::Met, "the file has a current token"),
            (Some(_), false) => condition(
                State::Degraded,
                "the file has an older token, and no newer one is written",
            ),
        }
        .until(self.expiry)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn file_without_a_token_that_may_be_used_is_a_lost_condition() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        for (is_settled, expiry, state) in [
            (true, None, State::Lost),
            (false, None, State::Lost),
            (true, Some(at(200)), State::Met),
            (false, Some(at(200)), State::Degraded),
            (true, Some(at(100)), State::Lost),
            (false, Some(at(100)), State::Lost),
        ] {
            let shown = Shown { is_settled, expiry };
            assert_eq!(shown.condition(at(100)).state, state, "{shown:?}");
        }
    }
}
