//! The age of a connection, and the ages at which it takes no more requests.

use std::time::Duration;

use tokio::time::Instant;

/// Idle connections are dropped sooner than a server of ours would close them (75 s), so that a
/// request is not sent into a connection that is just closing.
const IDLE: Duration = Duration::from_secs(60);

/// The idle time after which a peer may be about to close the connection. Many servers close one that
/// was idle for 2 to 5 s.
const FRESH: Duration = Duration::from_secs(1);

/// The time for which a verified connection takes new requests. It is shorter than any SVID's life in
/// practice, so that the upstream's own does not expire long before it is verified again.
const LIFE: Duration = Duration::from_secs(5 * 60);

/// The time when a connection was opened, and the time when a request used it last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Age {
    opened: Instant,
    used: Instant,
}

impl Age {
    /// Begins now.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            opened: now,
            used: now,
        }
    }

    /// Notes that a request uses the connection.
    pub(super) fn touch(&mut self, now: Instant) {
        self.used = now;
    }

    /// Returns whether the connection is too old for another request.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        now - self.opened >= LIFE
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
    fn idle_connections_are_dropped_before_a_server_of_ours_would_p165() {
        assert!(IDLE < Limits::new(1).idle_timeout);
    }
}
