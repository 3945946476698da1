//! The time for which a token is used, and the time of its renewal.
//!
//! Both follow from the token's own times and from two clocks. Verifiers use the wall clock, which can
//! be set. The monotonic clock cannot be set, but it stops while the machine sleeps. A token is used
//! while both clocks permit it. A wall clock set forward therefore causes an early fetch, and one set
//! back does not keep an expired token in use.

use std::time::{Duration, SystemTime};

use jsonwebtoken::dangerous;
use serde::Deserialize;
use spiffe::JwtSvid;
use tokio::time::Instant;

/// The time before `exp` from which a token is no longer sent, because it is verified later and by
/// another machine's clock. It is at most a tenth of the life that the token had left when it came, so
/// that short tokens can be used.
const MARGIN: Duration = Duration::from_secs(5);

/// The longest life that is used in calculations, so that no sum overflows the clock.
const MAX_LIFE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The times of a token, computed when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lifetime {
    wall_end: SystemTime,
    end: Instant,
    /// The time of the next fetch.
    pub(super) renewal: Instant,
}

/// The claim that the library does not read.
#[derive(Deserialize)]
struct IssuedAt {
    iat: f64,
}

impl Lifetime {
    /// Returns the times of a token that came at `now`, which is `wall` by the wall clock.
    ///
    /// The token is renewed at half of its life. `jitter`, from 0 to 1, delays this by up to a fifth, so
    /// that not all workloads fetch at once. An agent with a cache may issue a token that is older than
    /// that. It is renewed after a quarter of its remaining life, because the agent may issue it again.
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

    /// Returns whether the token may be sent at `now`, which is `wall` by the wall clock.
    pub(super) fn includes(&self, wall: SystemTime, now: Instant) -> bool {
        self.left(wall, now) > Duration::ZERO
    }

    /// Returns how long the token may still be sent.
    pub(super) fn left(&self, wall: SystemTime, now: Instant) -> Duration {
        let by_wall = self.wall_end.duration_since(wall).unwrap_or_default();
        by_wall.min(self.end.saturating_duration_since(now))
    }
}

/// Returns the time from `iat` to `exp`, if the token has an `iat`.
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

    /// Returns how long the token is used and after how long it is renewed, in seconds.
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
            ("for two seconds", json!(NOW), NOW + 2, 1.8, 1.0),
            (
                "from the agent's cache",
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
                "with an impossible iat",
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
        assert!(used <= MAX_LIFE.as_secs_f64(), "for millennia");
    }

    #[test]
    fn a_token_is_used_only_while_both_clocks_permit_it() {
        let (wall, now) = (UNIX_EPOCH + SECOND * NOW as u32, Instant::now());
        let claims = json!({ "iat": NOW, "exp": NOW + 300 });
        let lifetime = Lifetime::new(&svid(&claims), wall, now, 0.0);
        let hour = SECOND * 3600;
        for (what, wall, now, usable) in [
            ("just issued", wall, now, true),
            ("set forward", wall + hour, now, false),
            ("set back", wall - hour, now, true),
            (
                "set back, then time passes",
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
            assert_eq!(lifetime.includes(wall, now), usable, "{what}");
        }
    }
}
