//! The readiness of a process, as far as its identity decides it, and how long that lasts.
//!
//! The log, the admin listener and tests use the same value.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use humantime::format_duration;

/// The state of a process's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The SVID and the bundles are current, and the Workload API updates them.
    Ready,
    /// Requests are served with the SVID and the bundles of the last update.
    Degraded {
        /// The reason.
        reason: Degradation,
        /// The time from which requests are no longer served.
        until: SystemTime,
    },
    /// New connections and tokens are refused. Requests in flight may finish.
    NotReady(Unready),
}

/// The reason why an identity is degraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Degradation {
    /// The Workload API cannot be reached.
    Outage,
    /// The Workload API sends an X.509-SVID, or bundles of the own trust domain, that cannot be used.
    Refused,
    /// Two thirds of the time that the X.509-SVID had left are over, and no new one has come.
    Expiring,
}

/// The reason why a process has no identity.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unready {
    /// The Workload API withdrew the identity (Workload API §5.2.1). The field has its message.
    Withdrawn(String),
    /// The X.509-SVID has expired.
    Expired,
    /// The Workload API has sent no usable bundles of the own trust domain for longer than the last good
    /// ones are trusted.
    Stale,
}

/// The facts that determine the state.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The message of a withdrawal.
    pub(super) withdrawn: Option<String>,
    /// The life of the X.509-SVID. A process that fetches none has none.
    pub(super) life: Option<Life>,
    /// True if the bundles of the own trust domain are not trusted any more.
    pub(super) is_stale: bool,
    /// The time until which the last good SVID or bundles are used, if newer ones cannot be used.
    pub(super) refused_until: Option<SystemTime>,
    /// The time until which the last SVID and bundles are used, if the Workload API is away.
    pub(super) lost_until: Option<SystemTime>,
}

/// The remaining life of the X.509-SVID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// The time when the SVID came, or when the Workload API was lost after that.
    pub(super) since: SystemTime,
    /// The time when the SVID expires.
    pub(super) until: SystemTime,
}

impl Readiness {
    /// Returns how long a [`Self::Degraded`] identity lasts after `now`, or `None` for the other
    /// states.
    #[must_use]
    pub fn left(&self, now: SystemTime) -> Option<Duration> {
        match self {
            Self::Degraded { until, .. } => Some(until.duration_since(now).unwrap_or_default()),
            Self::Ready | Self::NotReady(_) => None,
        }
    }

    /// Returns whether both are the same state. The message of a withdrawal and the time that is left may
    /// differ.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        use Unready::Withdrawn;
        match (self, other) {
            (Self::NotReady(Withdrawn(_)), Self::NotReady(Withdrawn(_))) => true,
            (Self::Degraded { reason, .. }, Self::Degraded { reason: other, .. }) => {
                reason == other
            }
            _ => self == other,
        }
    }

    /// Returns the state at `now`.
    pub(super) fn of(facts: &Facts, now: SystemTime) -> Self {
        let degraded = |reason, until| Self::Degraded { reason, until };
        if let Some(reason) = &facts.withdrawn {
            return Self::NotReady(Unready::Withdrawn(reason.clone()));
        }
        if let Some(life) = facts.life.filter(|life| now >= life.warning()) {
            return if now >= life.until {
                Self::NotReady(Unready::Expired)
            } else {
                degraded(Degradation::Expiring, life.until)
            };
        }
        match (facts.refused_until, facts.lost_until) {
            _ if facts.is_stale => Self::NotReady(Unready::Stale),
            (Some(until), _) => degraded(Degradation::Refused, until),
            (None, Some(until)) => degraded(Degradation::Outage, until),
            (None, None) => Self::Ready,
        }
    }
}

impl Life {
    /// Returns the time when a third of the remaining life is left.
    fn warning(&self) -> SystemTime {
        let left = self.until.duration_since(self.since).unwrap_or_default();
        self.until - left / 3
    }

    /// Returns the time until the state changes without an event.
    pub(super) fn next_change(&self, now: SystemTime) -> Option<Duration> {
        [self.warning(), self.until]
            .into_iter()
            .filter(|&change| change > now)
            .min()
            .and_then(|change| change.duration_since(now).ok())
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => write!(f, "ready"),
            Self::Degraded { reason, until } => {
                let left = until.duration_since(SystemTime::now()).unwrap_or_default();
                let left = format_duration(Duration::from_secs(left.as_secs()));
                write!(f, "{reason} {left}")
            }
            Self::NotReady(reason) => write!(f, "{reason}"),
        }
    }
}

/// Writes the start of a sentence, which ends with the time that is left.
impl fmt::Display for Degradation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outage => {
                "lost the Workload API; continuing with the current SVIDs and bundles, for"
            }
            Self::Refused => {
                "the Workload API sends updates that can't be used; continuing with the last good SVIDs and bundles, for"
            }
            Self::Expiring => {
                "no new X.509-SVID has come; new connections are refused when the current one expires, in"
            }
        })
    }
}

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Withdrawn(_) => f.write_str(
                "identity withdrawn by the Workload API: new connections and tokens are refused",
            ),
            Self::Expired => f.write_str(
                "the X.509-SVID has expired: new connections and tokens are refused until a new one comes",
            ),
            Self::Stale => f.write_str(
                "the Workload API has sent no usable bundles for too long: tokens and peers are refused until it does",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    const LIFE: Life = Life {
        since: UNIX_EPOCH,
        until: UNIX_EPOCH,
    };

    #[test]
    fn an_identity_is_ready_until_an_outage_or_two_thirds_of_its_life() {
        let degraded = |reason| Readiness::Degraded {
            reason,
            until: at(400),
        };
        let outage = degraded(Degradation::Outage);
        let expiring = degraded(Degradation::Expiring);
        let expired = Readiness::NotReady(Unready::Expired);
        for (since, now, reachable, expected) in [
            (100, 100, true, &Readiness::Ready),
            (100, 299, true, &Readiness::Ready),
            // An agent that hangs cannot be distinguished from one that has no update.
            (100, 300, true, &expiring),
            (100, 299, false, &outage),
            (100, 300, false, &expiring),
            // The Workload API was lost when 60 s were left, so that the warning comes 20 s before the end.
            (340, 379, false, &outage),
            (340, 380, false, &expiring),
            (100, 399, true, &expiring),
            (100, 400, true, &expired),
            (100, 400, false, &expired),
            // The clock was set back, or forward by an hour.
            (100, 0, true, &Readiness::Ready),
            (100, 4000, true, &expired),
            // The SVID had expired when it came.
            (500, 500, true, &expired),
        ] {
            let facts = Facts {
                life: Some(Life {
                    since: at(since),
                    until: at(400),
                }),
                lost_until: (!reachable).then(|| at(400)),
                ..Facts::default()
            };
            let found = Readiness::of(&facts, at(now));
            assert_eq!(&found, expected, "since {since}, at {now}, {reachable}");
        }
    }

    #[test]
    fn the_gravest_state_is_the_one_that_is_told() {
        let facts = |withdrawn: bool, life, is_stale, refused: bool, lost: bool| Facts {
            withdrawn: withdrawn.then(|| "gone".to_owned()),
            life,
            is_stale,
            refused_until: refused.then(|| at(300)),
            lost_until: lost.then(|| at(200)),
        };
        let long = Some(Life {
            since: at(0),
            until: at(100_000),
        });
        let not_ready = Readiness::NotReady;
        let degraded = |reason, until| Readiness::Degraded {
            reason,
            until: at(until),
        };
        for (facts, expected) in [
            (
                facts(true, Some(LIFE), true, true, true),
                not_ready(Unready::Withdrawn("gone".to_owned())),
            ),
            (
                facts(false, Some(LIFE), true, true, true),
                not_ready(Unready::Expired),
            ),
            (
                facts(false, long, true, true, true),
                not_ready(Unready::Stale),
            ),
            (
                facts(false, long, false, true, true),
                degraded(Degradation::Refused, 300),
            ),
            (
                facts(false, long, false, false, true),
                degraded(Degradation::Outage, 200),
            ),
            // A process that fetches no X.509-SVID has no life.
            (
                facts(false, None, false, false, true),
                degraded(Degradation::Outage, 200),
            ),
            (facts(false, None, false, false, false), Readiness::Ready),
        ] {
            assert_eq!(Readiness::of(&facts, at(100)), expected, "{facts:?}");
        }
    }

    #[test]
    fn the_state_changes_twice_without_an_event() {
        let life = Life {
            since: at(100),
            until: at(400),
        };
        for (now, next) in [
            (100, Some(200)),
            (299, Some(1)),
            (300, Some(100)),
            (400, None),
        ] {
            let next = next.map(Duration::from_secs);
            assert_eq!(life.next_change(at(now)), next, "at {now}");
        }
    }

    #[test]
    fn a_degraded_identity_tells_the_time_that_is_left() {
        let degraded = Readiness::Degraded {
            reason: Degradation::Outage,
            until: at(400),
        };
        assert_eq!(degraded.left(at(340)), Some(Duration::from_secs(60)));
        assert_eq!(degraded.left(at(500)), Some(Duration::ZERO));
        assert_eq!(Readiness::Ready.left(at(0)), None);
    }
}
