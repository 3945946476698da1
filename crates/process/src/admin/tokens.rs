//! The condition of a JWT-SVID that a client sends.

use std::time::SystemTime;

use common::workload::tokens::TokenStatus;

use super::conditions::{Condition, State};

pub(super) fn condition(name: &str, status: &TokenStatus, now: SystemTime) -> Condition {
    let condition = |state, reason: &str| Condition::new(name, state, reason);
    let failure = status.failure.as_deref();
    let Some(id) = status.id.as_ref().filter(|_| !status.left.is_zero()) else {
        return condition(State::Lost, failure.unwrap_or("waiting for a JWT-SVID"));
    };
    let condition = match (failure, status.is_refused) {
        (Some(failure), _) => condition(State::Degraded, &format!("cannot be renewed: {failure}")),
        (None, true) => condition(State::Degraded, "refused by a server; fetching another one"),
        (None, false) => condition(State::Met, &format!("of {id}")),
    };
    condition.until(Some(now + status.left))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn token_that_cannot_be_renewed_is_degraded_until_it_may_not_be_sent() {
        let now = UNIX_EPOCH + Duration::from_secs(100);
        let id = || Some("spiffe://a/b".parse().unwrap());
        let failed = || Some("nobody listens".to_owned());
        for (id, left, is_refused, failure, state, reason) in [
            (None, 0, false, None, State::Lost, "waiting for a JWT-SVID"),
            (None, 0, false, failed(), State::Lost, "nobody listens"),
            (id(), 0, false, failed(), State::Lost, "nobody listens"),
            (id(), 60, false, None, State::Met, "of spiffe://a/b"),
            (
                id(),
                60,
                false,
                failed(),
                State::Degraded,
                "cannot be renewed: nobody listens",
            ),
            (
                id(),
                60,
                true,
                None,
                State::Degraded,
                "refused by a server; fetching another one",
            ),
        ] {
            let status = TokenStatus {
                id,
                left: Duration::from_secs(left),
                is_refused,
                failure,
                ..TokenStatus::default()
            };
            let condition = condition("token", &status, now);
            assert_eq!(
                (condition.state, condition.reason.as_str()),
                (state, reason)
            );
            let until = (state != State::Lost).then(|| now + Duration::from_secs(left));
            assert_eq!(condition.until, until);
        }
    }
}
