//! The age of a connection, and the ages at which it takes no more requests.

use std::time::{Duration, SystemTime};

use common::certificate;
use rustls::pki_types::CertificateDer;
use tokio::time::Instant;

/// Idle connections are dropped sooner than a server of ours would close them (75 s). Otherwise a request
/// might be sent into a connection that is just closing.
const IDLE: Duration = Duration::from_secs(60);

/// The idle time after which a peer may be about to close the connection. Many servers close one that
/// was idle for 2 to 5 s.
const FRESH: Duration = Duration::from_secs(1);

/// The longest time for which a verified connection takes new requests.
const LIFE: Duration = Duration::from_secs(5 * 60);

/// The shortest such time, in which the request that the connection was opened for can use it.
const MIN_LIFE: Duration = Duration::from_secs(1);

/// The time until which a connection takes requests, and the time when a request used it last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Age {
    end: Instant,
    used: Instant,
}

impl Age {
    /// Begins now, and ends with the life of a connection or with the certificate that its peer has
    /// presented, if there is TLS. A new connection then verifies the next certificate.
    pub(super) fn of(presented: Option<&CertificateDer<'_>>) -> Self {
        let expiry = presented.and_then(|presented| certificate::expiry(presented));
        let left = expiry.map(|expiry| expiry.duration_since(SystemTime::now()));
        Self::of_life(left.map_or(LIFE, Result::unwrap_or_default))
    }

    fn of_life(life: Duration) -> Self {
        let now = Instant::now();
        Self {
            end: now + life.clamp(MIN_LIFE, LIFE),
            used: now,
        }
    }

    /// Notes that a request uses the connection.
    pub(super) fn touch(&mut self, now: Instant) {
        self.used = now;
    }

    /// Returns whether the connection is too old for another request.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        now >= self.end
    }

    /// Returns whether the last use is so recent that hardly any peer closes the connection now.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        now - self.used < FRESH
    }

    /// Returns whether the last use is so long ago that the peer may be about to close.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        now - self.used >= IDLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serve::Limits;

    #[test]
    fn a_connection_ends_with_the_certificate_or_after_five_minutes_t007() {
        let second = Duration::from_secs(1);
        for (left, life) in [
            (Duration::ZERO, second),
            (10 * second, 10 * second),
            (3600 * second, 300 * second),
        ] {
            let (before, age) = (Instant::now(), Age::of_life(left));
            assert!(!age.is_expired(before + life - second / 10), "{left:?}");
            assert!(age.is_expired(Instant::now() + life), "{left:?}");
        }
    }

    #[test]
    fn idle_connections_are_dropped_before_a_server_of_ours_would_p165() {
        assert!(IDLE < Limits::new(1).idle_timeout);
    }
}
