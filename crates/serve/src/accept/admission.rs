//! Who gets in: bounds on connections, in all and per source address, and on handshakes in flight.
//!
//! A connection without a request costs an attacker little, so no one source may have all the
//! places. A handshake that nobody finishes costs nothing at all, so when there are too many, one
//! has to go: the oldest of the source that has the most, since whoever means it finishes within
//! milliseconds.

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
    shares::{Eviction, Held, Own, Shares},
};

/// The places of a process, shared by its cores.
#[derive(Clone, Debug)]
pub(crate) struct Admission(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    connections: Arc<Semaphore>,
    sources: Shares,
    handshakes: Shares,
    max_handshakes: usize,
    /// Tells that a connection has ended.
    ended: Notify,
    /// Connections that can't be accepted.
    failing: Arc<Episode>,
    last_warning: Mutex<Option<Instant>>,
}

/// A source address's hold on one of its places.
#[derive(Debug)]
pub(crate) struct Place {
    shared: Arc<Shared>,
    _held: Held,
}

/// A handshake's hold on its place.
#[derive(Debug)]
pub(crate) struct Handshake {
    shed: Arc<Eviction>,
    _held: Option<Held>,
}

/// A flood is told of this often, not once for each connection.
const WARN_EVERY: Duration = Duration::from_secs(10);

impl Admission {
    /// All places free.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self(Arc::new(Shared {
            connections: Arc::new(Semaphore::new(limits.max_connections)),
            // Connections are closed for no other: the total waits in `connections`.
            sources: Shares::new(usize::MAX, limits.max_connections_per_source, Own::Refused),
            handshakes: Shares::new(limits.max_handshakes, usize::MAX, Own::Evicted),
            max_handshakes: limits.max_handshakes,
            ended: Notify::new(),
            failing: Episode::new(
                "cannot accept connections; trying again".into(),
                "accepting connections again",
            ),
            last_warning: Mutex::default(),
        }))
    }

    /// Takes a place for a connection from `source` and starts its handshake; none when the source
    /// has all it may have.
    pub(crate) fn enter(&self, source: IpAddr) -> Option<(Place, Handshake)> {
        let held = self.0.sources.of(source).enter(&Arc::default());
        match held {
            Ok(held) => {
                let place = Place {
                    shared: Arc::clone(&self.0),
                    _held: held,
                };
                Some((place, self.handshake(source)))
            }
            Err(_) => {
                self.0.warn(|| {
                    format!("{source} has as many connections as max-connections-per-address: closing more")
                });
                None
            }
        }
    }

    /// A core can't accept connections; it will try again.
    pub(crate) fn accept_fails(&self, error: &io::Error) {
        self.0.failing.note_error(error);
    }

    /// Waits until a connection of this process ends, also one that ends before the first poll.
    pub(crate) fn connection_ended(&self) -> Notified<'_> {
        self.0.ended.notified()
    }

    /// Waits for a place among the connections that are served.
    pub(crate) async fn connection(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.0.connections)
            .acquire_owned()
            .await
            .expect("never closed")
    }

    fn handshake(&self, source: IpAddr) -> Handshake {
        let shed = Arc::default();
        if self.0.handshakes.count() >= self.0.max_handshakes {
            self.0
                .warn(|| "more TLS handshakes than max-handshakes: closing the oldest".to_owned());
        }
        let held = self.0.handshakes.of(source).enter(&shed).ok();
        Handshake { shed, _held: held }
    }
}

impl Handshake {
    /// Returns once a younger handshake took the place.
    pub(crate) async fn shed(&self) {
        self.shed.evicted().await;
    }
}

impl Shared {
    fn warn(&self, message: impl Fn() -> String) {
        let mut last = lock(&self.last_warning);
        if last.is_none_or(|last| last.elapsed() >= WARN_EVERY) {
            *last = Some(Instant::now());
            warn!("{}", message());
        }
    }
}

impl Drop for Place {
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
    fn p143_a_source_has_its_places_and_no_more() {
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
        let mut inside = Vec::new();
        for (source, enters) in entries {
            let entered = admission.enter(network(source.parse().unwrap()));
            assert_eq!(entered.is_some(), enters, "{source}");
            inside.extend(entered);
        }
        inside.remove(0);
        assert!(admission.enter("192.0.2.1".parse().unwrap()).is_some());
        inside.clear();
        assert_eq!(admission.0.sources.count(), 0);
    }

    #[tokio::test]
    async fn p138_the_oldest_handshake_of_the_busiest_source_makes_room() {
        let admission = admission(9, 3);
        let [one, two] = ["192.0.2.1", "192.0.2.2"].map(|source| source.parse().unwrap());
        let is_shed = async |handshake: &(Place, Handshake)| {
            timeout(Duration::ZERO, handshake.1.shed()).await.is_ok()
        };
        let other = admission.enter(one).unwrap();
        let mut flood: Vec<_> = (0..4).map(|_| admission.enter(two).unwrap()).collect();
        for (index, shed) in [true, true, false, false].into_iter().enumerate() {
            assert_eq!(is_shed(&flood[index]).await, shed, "{index}");
        }
        drop(flood.pop());
        flood.push(admission.enter(two).unwrap());
        assert!(!is_shed(&flood[2]).await, "a finished one makes room");
        assert!(!is_shed(&other).await);
        drop((flood, other));
        assert_eq!(admission.0.handshakes.count(), 0);
    }
}
