//! Bounds on connections, in all and per source, and on TLS handshakes.
//!
//! A connection without a request costs an attacker little, so that no source may hold all permits. An
//! unfinished handshake costs an attacker nothing. Over the bound, the oldest handshake of the source
//! with the most is therefore closed; a real caller finishes its handshake within milliseconds.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{lock::lock, throttle::Episode};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, futures::Notified},
    time::Instant,
};
use tracing::warn;

use crate::{
    limits::Limits,
    reason::ConnectionReason,
    shares::{Eviction, OnFull, Permit, Shares},
};

/// The permits of a process for connections and handshakes. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Admission(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    connections: Arc<Semaphore>,
    sources: Shares,
    handshakes: Shares,
    max_handshakes: usize,
    /// Notifies waiting tasks that a connection has ended.
    ended: Notify,
    /// The log lines about failures to accept.
    failing: Arc<Episode>,
    last_warning: Mutex<Option<Instant>>,
}

/// The permit of one connection of a source.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    shared: Arc<Shared>,
    _permit: Permit,
}

/// The permit of one TLS handshake.
#[derive(Debug)]
pub(crate) struct HandshakePermit {
    eviction: Arc<Eviction>,
    _permit: Option<Permit>,
}

/// The shortest interval between warnings of a flood.
const WARN_EVERY: Duration = Duration::from_secs(10);

impl Admission {
    /// Returns an admission with all permits of `limits`.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self(Arc::new(Shared {
            connections: Arc::new(Semaphore::new(limits.max_connections)),
            // Connections over the total wait for `connections`, so that none is closed for another
            // one.
            sources: Shares::new(
                usize::MAX,
                limits.max_connections_per_source,
                OnFull::Refuse,
            ),
            handshakes: Shares::new(limits.max_handshakes, usize::MAX, OnFull::EvictOwnOldest),
            max_handshakes: limits.max_handshakes,
            ended: Notify::new(),
            failing: Episode::new(
                "cannot accept connections; trying again".into(),
                "accepting connections again",
            ),
            last_warning: Mutex::default(),
        }))
    }

    /// Returns the permits of a new connection from `source` and of its handshake, or `None` if the
    /// source has reached its bound.
    pub(crate) fn admit(&self, source: IpAddr) -> Option<(ConnectionPermit, HandshakePermit)> {
        let permit = self.0.sources.of(source).enter(&Arc::default());
        match permit {
            Ok(permit) => {
                let permit = ConnectionPermit {
                    shared: Arc::clone(&self.0),
                    _permit: permit,
                };
                Some((permit, self.handshake(source)))
            }
            Err(_) => {
                self.0.warn(ConnectionReason::MaxConnectionsPerAddress, || {
                    format!("{source} has as many connections as max-connections-per-address: closing more")
                });
                None
            }
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.0.sources.count()
    }

    pub(crate) fn handshakes(&self) -> usize {
        self.0.handshakes.count()
    }

    /// Notes that a core failed to accept and will try again.
    pub(crate) fn accept_failed(&self, error: &io::Error) {
        self.0.failing.note_error(error);
    }

    /// Returns a future that waits until a connection of this process ends. It also completes for a
    /// connection that ends before the future is first polled.
    pub(crate) fn connection_ended(&self) -> Notified<'_> {
        self.0.ended.notified()
    }

    /// Waits for a permit to serve a connection after its handshake.
    pub(crate) async fn connection(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.0.connections)
            .acquire_owned()
            .await
            .expect("never closed")
    }

    fn handshake(&self, source: IpAddr) -> HandshakePermit {
        let eviction = Arc::default();
        if self.0.handshakes.count() >= self.0.max_handshakes {
            self.0.warn(ConnectionReason::MaxHandshakes, || {
                "more TLS handshakes than max-handshakes: closing the oldest".to_owned()
            });
        }
        let permit = self.0.handshakes.of(source).enter(&eviction).ok();
        HandshakePermit {
            eviction,
            _permit: permit,
        }
    }
}

impl HandshakePermit {
    /// Waits until the handshake has to make room for a newer one.
    pub(crate) async fn evicted(&self) {
        self.eviction.evicted().await;
    }
}

impl Shared {
    fn warn(&self, reason: ConnectionReason, message: impl Fn() -> String) {
        let mut last = lock(&self.last_warning);
        if last.is_none_or(|last| last.elapsed() >= WARN_EVERY) {
            *last = Some(Instant::now());
            warn!(%reason, "{}", message());
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.shared.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use common::source::network;
    use tokio::time::timeout;

    use super::*;

    fn admission(per_source: usize, handshakes: usize) -> Admission {
        Admission::new(&Limits {
            max_connections_per_source: per_source,
            max_handshakes: handshakes,
            ..Limits::new(1)
        })
    }

    #[test]
    fn a_source_over_its_bound_is_not_admitted_p143() {
        let admission = admission(2, 9);
        let entries = [
            ("192.0.2.1", true),
            ("192.0.2.1", true),
            ("192.0.2.1", false),
            ("192.0.2.2", true),
            ("2001:db8::1", true),
            ("2001:db8::ffff:1", true),
            ("2001:db8::2", false),
            ("2001:db8:0:1::1", true),
        ];
        let mut permits_held = Vec::new();
        for (source, is_admitted) in entries {
            let permits = admission.admit(network(source.parse().unwrap()));
            assert_eq!(permits.is_some(), is_admitted, "{source}");
            permits_held.extend(permits);
        }
        permits_held.remove(0);
        assert!(admission.admit("192.0.2.1".parse().unwrap()).is_some());
        permits_held.clear();
        assert_eq!(admission.0.sources.count(), 0);
    }

    #[tokio::test]
    async fn the_oldest_handshake_of_the_busiest_source_is_evicted_p138() {
        let admission = admission(9, 3);
        let [one, two] = ["192.0.2.1", "192.0.2.2"].map(|source| source.parse().unwrap());
        let is_evicted = async |permits: &(ConnectionPermit, HandshakePermit)| {
            timeout(Duration::ZERO, permits.1.evicted()).await.is_ok()
        };
        let other = admission.admit(one).unwrap();
        let mut flood: Vec<_> = (0..4).map(|_| admission.admit(two).unwrap()).collect();
        for (index, evicted) in [true, true, false, false].into_iter().enumerate() {
            assert_eq!(is_evicted(&flood[index]).await, evicted, "{index}");
        }
        drop(flood.pop());
        flood.push(admission.admit(two).unwrap());
        assert!(
            !is_evicted(&flood[2]).await,
            "a finished handshake makes room"
        );
        assert!(!is_evicted(&other).await);
        drop((flood, other));
        assert_eq!(admission.0.handshakes.count(), 0);
    }
}
