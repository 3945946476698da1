//! Whether a process can do its work by the identity it has, and how long that lasts: one value for
//! the log, for tests and for whoever asks from outside.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use humantime::format_duration;
use spiffe::X509Svid;
use x509_parser::parse_x509_certificate;

/// The state of a process' identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// SVID and bundles are current, and the Workload API keeps them so.
    Ready,
    /// Everything is served, by the SVID and the bundles of before.
    Degraded {
        /// What is wrong.
        reason: Degradation,
        /// When the X.509-SVID expires, and with it what is served.
        until: SystemTime,
    },
    /// New connections and tokens are refused; what is in flight may finish.
    NotReady(Unready),
}

/// What is wrong with an identity that still serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Degradation {
    /// The Workload API can't be reached, or sends what can't be used.
    Outage,
    /// Two thirds of what was left of the X.509-SVID's life are over, and no new one has come.
    Expiring,
}

/// Why there is no identity.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unready {
    /// The Workload API said that this process has none any more (Workload API §5.2.1), in its words.
    Withdrawn(String),
    /// The X.509-SVID has expired.
    Expired,
}

/// How long the X.509-SVID is valid, and from when on that has been all that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// When the SVID came, or the Workload API was lost after that.
    pub(super) since: SystemTime,
    pub(super) until: SystemTime,
}

impl Readiness {
    /// How long it goes on if nothing changes, for an identity that is [`Self::Degraded`].
    #[must_use]
    pub fn left(&self, now: SystemTime) -> Option<Duration> {
        match self {
            Self::Degraded { until, .. } => Some(until.duration_since(now).unwrap_or_default()),
            Self::Ready | Self::NotReady(_) => None,
        }
    }

    /// Whether there is nothing new to tell: the words of a withdrawal may differ.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        use Unready::Withdrawn;
        match (self, other) {
            (Self::NotReady(Withdrawn(_)), Self::NotReady(Withdrawn(_))) => true,
            _ => self == other,
        }
    }

    /// The state at `now` of an SVID that lives for `life` while the Workload API can be reached, or
    /// can't.
    pub(super) fn of(life: Life, reachable: bool, now: SystemTime) -> Self {
        let until = life.until;
        if now >= until {
            Self::NotReady(Unready::Expired)
        } else if now >= life.warning() {
            let reason = Degradation::Expiring;
            Self::Degraded { reason, until }
        } else if !reachable {
            let reason = Degradation::Outage;
            Self::Degraded { reason, until }
        } else {
            Self::Ready
        }
    }
}

impl Life {
    /// Of `svid`, which is all that there is since `since`.
    pub(super) fn of(svid: &X509Svid, since: SystemTime) -> Self {
        Self {
            since,
            until: expiry(svid).unwrap_or(since),
        }
    }

    /// When a third of what was left is left.
    fn warning(&self) -> SystemTime {
        let left = self.until.duration_since(self.since).unwrap_or_default();
        self.until - left / 3
    }

    /// How long until time alone changes the state.
    pub(super) fn next_change(&self, now: SystemTime) -> Option<Duration> {
        [self.warning(), self.until]
            .into_iter()
            .filter(|&change| change > now)
            .min()
            .and_then(|change| change.duration_since(now).ok())
    }
}

/// `notAfter` (RFC 5280 §4.1.2.5). None is no case: the library has read it before us.
fn expiry(svid: &X509Svid) -> Option<SystemTime> {
    let (_, certificate) = parse_x509_certificate(svid.leaf().as_bytes()).ok()?;
    let seconds = certificate.validity().not_after.timestamp();
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.try_into().ok()?))
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

/// The beginning of a sentence that ends with the time that is left.
impl fmt::Display for Degradation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outage => {
                "lost the Workload API, or can't use what it sends; going on with the current SVIDs and bundles, for"
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
                "the X.509-SVID has expired: new connections are refused until a new one comes",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn an_identity_is_ready_until_it_is_lost_or_nearly_over() {
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
            // An agent that says nothing looks like one that has nothing to say.
            (100, 300, true, &expiring),
            (100, 299, false, &outage),
            (100, 300, false, &expiring),
            // Lost when little was left: a third of that.
            (340, 379, false, &outage),
            (340, 380, false, &expiring),
            (100, 399, true, &expiring),
            (100, 400, true, &expired),
            (100, 400, false, &expired),
            // The clock was set back, or forth by an hour.
            (100, 0, true, &Readiness::Ready),
            (100, 4000, true, &expired),
            // It came when it was over already.
            (500, 500, true, &expired),
        ] {
            let life = Life {
                since: at(since),
                until: at(400),
            };
            let found = Readiness::of(life, reachable, at(now));
            assert_eq!(&found, expected, "since {since}, at {now}, {reachable}");
        }
    }

    #[test]
    fn time_alone_changes_the_state_twice() {
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
    fn it_says_how_long_it_goes_on() {
        let degraded = Readiness::Degraded {
            reason: Degradation::Outage,
            until: at(400),
        };
        assert_eq!(degraded.left(at(340)), Some(Duration::from_secs(60)));
        assert_eq!(degraded.left(at(500)), Some(Duration::ZERO));
        assert_eq!(Readiness::Ready.left(at(0)), None);
    }
}
