//! How long a token is used, and when the next one is due: by the token's own times, held against
//! two clocks.
//!
//! The wall clock is the one that verifiers go by, but it can be set; the monotonic one can't, but
//! stands still while the machine sleeps. A token is used while neither says that it is too old: a
//! clock set forward makes us fetch early, one set back does not make us send what has long expired.

use std::time::{Duration, SystemTime};

use jsonwebtoken::dangerous;
use serde::Deserialize;
use spiffe::JwtSvid;
use tokio::time::Instant;

/// How long before `exp` a token is no longer sent: it must still be good when it is checked, after
/// queues and by another machine's clock. At most a tenth of what was left when it came, so that
/// tokens of seconds can be used at all.
const MARGIN: Duration = Duration::from_secs(5);

/// What is reckoned with at most: later times are of no use, and sums must not overflow the clock.
const MAX_LIFE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The times of a token, as of when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lifetime {
    wall_end: SystemTime,
    end: Instant,
    /// When the next one is to be fetched.
    pub(super) renewal: Instant,
}

/// The one claim that the library does not read.
#[derive(Deserialize)]
struct IssuedAt {
    iat: f64,
}

impl Lifetime {
    /// Of a token that came at `now`, which is `wall` by the wall clock.
    ///
    /// It is renewed at half of its life and up to a fifth later, by `jitter` from 0 to 1: not all
    /// workloads ask at once. Agents that keep tokens may give one that is older: that is renewed
    /// after a quarter of what is left, since the same one may come again for a while.
    pub(super) fn new(svid: &JwtSvid, wall: SystemTime, now: Instant, jitter: f64) -> Self {
        let expiry = SystemTime::from(svid.expiry());
        let left = expiry
            .duration_since(wall)
            .unwrap_or_default()
            .min(MAX_LIFE);
        let half = life(svid).unwrap_or(left).max(left) / 2;
        let renewal = left.saturating_sub(half).max(left / 4);
        let margin = MARGIN.min(left / 10);
        Self {
            wall_end: wall + (left - margin),
            end: now + (left - margin),
            renewal: now + renewal.mul_f64(1.0 + jitter / 5.0),
        }
    }

    /// Whether the token may be sent at `now`, which is `wall` by the wall clock.
    pub(super) fn includes(&self, wall: SystemTime, now: Instant) -> bool {
        self.left(wall, now) > Duration::ZERO
    }

    /// How long it may still be sent.
    pub(super) fn left(&self, wall: SystemTime, now: Instant) -> Duration {
        let by_wall = self.wall_end.duration_since(wall).unwrap_or_default();
        by_wall.min(self.end.saturating_duration_since(now))
    }
}

/// From `iat` to `exp`, if it says when it was issued.
fn life(svid: &JwtSvid) -> Option<Duration> {
    let IssuedAt { iat } = dangerous::insecure_decode_claims(svid.token()).ok()?;
    Duration::try_from_secs_f64(svid.claims().exp() as f64 - iat).ok()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use serde_json::{Value, json};

    use super::{super::tests::svid, *};

    const SECOND: Duration = Duration::from_secs(1);
    const NOW: u64 = 1_800_000_000;

    /// How long it is used and after how long it is renewed, in seconds.
    fn times(iat: Value, exp: u64, jitter: f64) -> (f64, f64) {
        let (wall, now) = (UNIX_EPOCH + SECOND * NOW as u32, Instant::now());
        let claims = json!({ "iat": iat, "exp": exp });
        let lifetime = Lifetime::new(&svid(&claims), wall, now, jitter);
        assert_eq!(lifetime.includes(wall, now), exp > NOW);
        let renewal = lifetime.renewal - now;
        (
            lifetime.left(wall, now).as_secs_f64(),
            renewal.as_secs_f64(),
        )
    }

    #[test]
    fn a_token_is_renewed_at_half_of_its_life_and_used_nearly_to_its_end() {
        for (what, iat, exp, used, renewed) in [
            ("fresh", json!(NOW), NOW + 300, 295.0, 150.0),
            ("of seconds", json!(NOW), NOW + 2, 1.8, 1.0),
            (
                "kept by the agent for a while",
                json!(NOW - 100),
                NOW + 200,
                195.0,
                50.0,
            ),
            ("older than half", json!(NOW - 260), NOW + 40, 36.0, 10.0),
            (
                "from a clock that is ahead",
                json!(NOW + 60),
                NOW + 300,
                295.0,
                150.0,
            ),
            ("without iat", Value::Null, NOW + 300, 295.0, 150.0),
            (
                "with a senseless iat",
                json!(-1e300),
                NOW + 300,
                295.0,
                150.0,
            ),
            ("with a very old iat", json!(0), NOW + 300, 295.0, 75.0),
            ("expired", json!(NOW - 300), NOW, 0.0, 0.0),
        ] {
            assert_eq!(times(iat.clone(), exp, 0.0), (used, renewed), "{what}");
            let late = times(iat, exp, 1.0).1;
            assert!((late - renewed * 1.2).abs() < 1e-6, "{what}: {late}");
        }
        let (used, _) = times(json!(NOW), 253_402_300_799, 1.0);
        assert!(used <= MAX_LIFE.as_secs_f64(), "of millennia");
    }

    #[test]
    fn neither_clock_alone_keeps_a_token_in_use() {
        let (wall, now) = (UNIX_EPOCH + SECOND * NOW as u32, Instant::now());
        let claims = json!({ "iat": NOW, "exp": NOW + 300 });
        let lifetime = Lifetime::new(&svid(&claims), wall, now, 0.0);
        let hour = SECOND * 3600;
        for (what, wall, now, good) in [
            ("as it came", wall, now, true),
            ("set forward", wall + hour, now, false),
            ("set back", wall - hour, now, true),
            (
                "set back, and time passes",
                wall - hour,
                now + SECOND * 295,
                false,
            ),
            ("the machine slept", wall + SECOND * 295, now, false),
            (
                "just before the end",
                wall + SECOND * 294,
                now + SECOND * 294,
                true,
            ),
        ] {
            assert_eq!(lifetime.includes(wall, now), good, "{what}");
        }
    }
}
