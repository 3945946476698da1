//! Who gets in: bounds on connections, in all and per source address, and on handshakes in flight.
//!
//! A connection without a request costs an attacker little, so no one source may have all the
//! places. A handshake that nobody finishes costs nothing at all, so when there are too many, one
//! has to go: the oldest of the source that has the most, since whoever means it finishes within
//! milliseconds.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, futures::Notified, oneshot},
    time::Instant,
};
use tracing::warn;

use crate::{peer::network, telemetry::Episode};

/// How many at once, over the whole process.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections past their handshake; more wait for the rest of their handshake's time.
    pub connections: usize,
    /// Connections of one source address (IPv6: of one /64), handshakes included; more are closed.
    pub per_source: usize,
    /// TLS handshakes in flight; for one more the oldest of the source with the most is closed.
    pub handshakes: usize,
}

/// The places of a process, shared by its cores.
#[derive(Clone, Debug)]
pub struct Admission(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bounds: Bounds,
    connections: Arc<Semaphore>,
    sources: Mutex<HashMap<IpAddr, usize>>,
    handshakes: Mutex<Handshakes>,
    /// Tells that a connection has ended.
    ended: Notify,
    /// Connections that can't be accepted.
    failing: Arc<Episode>,
    last_warning: Mutex<Option<Instant>>,
}

/// Handshakes in flight, by source and age.
#[derive(Debug, Default)]
struct Handshakes {
    next: u64,
    count: usize,
    sources: HashMap<IpAddr, BTreeMap<u64, oneshot::Sender<()>>>,
}

/// A source address's hold on one of its places.
#[derive(Debug)]
pub(super) struct Place {
    shared: Arc<Shared>,
    source: IpAddr,
}

/// A handshake's hold on its place.
#[derive(Debug)]
pub(super) struct Handshake {
    shared: Arc<Shared>,
    source: IpAddr,
    number: u64,
    shed: oneshot::Receiver<()>,
}

/// A flood is told of this often, not once for each connection.
const WARN_EVERY: Duration = Duration::from_secs(10);

impl Admission {
    /// All places free.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self(Arc::new(Shared {
            bounds,
            connections: Arc::new(Semaphore::new(bounds.connections)),
            sources: Mutex::default(),
            handshakes: Mutex::default(),
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
    pub(super) fn enter(&self, source: IpAddr) -> Option<(Place, Handshake)> {
        let source = network(source);
        let place = self.place(source)?;
        Some((place, self.handshake(source)))
    }

    /// A core can't accept connections; it will try again.
    pub(super) fn accept_fails(&self, error: &io::Error) {
        self.0.failing.note_error(error);
    }

    /// Waits until a connection of this process ends, also one that ends before the first poll.
    pub(super) fn connection_ended(&self) -> Notified<'_> {
        self.0.ended.notified()
    }

    /// Waits for a place among the connections that are served.
    pub(super) async fn connection(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.0.connections)
            .acquire_owned()
            .await
            .expect("never closed")
    }

    fn place(&self, source: IpAddr) -> Option<Place> {
        let mut sources = lock(&self.0.sources);
        let count = sources.entry(source).or_default();
        if *count >= self.0.bounds.per_source {
            drop(sources);
            self.0.warn(|| {
                format!("{source} has as many connections as --max-connections-per-address allows: closing more")
            });
            return None;
        }
        *count += 1;
        let shared = Arc::clone(&self.0);
        Some(Place { shared, source })
    }

    fn handshake(&self, source: IpAddr) -> Handshake {
        let mut handshakes = lock(&self.0.handshakes);
        let (number, shed) = handshakes.begin(source);
        if handshakes.count > self.0.bounds.handshakes {
            handshakes.shed();
            drop(handshakes);
            self.0.warn(|| {
                "more TLS handshakes in flight than --max-handshakes allows: closing the oldest"
                    .to_owned()
            });
        }
        let shared = Arc::clone(&self.0);
        Handshake {
            shared,
            source,
            number,
            shed,
        }
    }
}

impl Handshakes {
    fn begin(&mut self, source: IpAddr) -> (u64, oneshot::Receiver<()>) {
        let (shedding, shed) = oneshot::channel();
        let number = self.next;
        self.next += 1;
        self.count += 1;
        let of_source = self.sources.entry(source).or_default();
        of_source.insert(number, shedding);
        (number, shed)
    }

    fn shed(&mut self) {
        let busiest = self.sources.values_mut().max_by_key(|of_source| {
            let oldest = of_source.first_key_value().map(|(number, _)| *number);
            (of_source.len(), Reverse(oldest))
        });
        // Dropped, it tells its receiver.
        if busiest.and_then(BTreeMap::pop_first).is_some() {
            self.count -= 1;
        }
    }

    fn end(&mut self, source: IpAddr, number: u64) {
        let Some(of_source) = self.sources.get_mut(&source) else {
            return;
        };
        if of_source.remove(&number).is_some() {
            self.count -= 1;
        }
        if of_source.is_empty() {
            self.sources.remove(&source);
        }
    }
}

impl Handshake {
    /// Returns once a younger handshake took the place.
    pub(super) async fn shed(&mut self) {
        // An error is how it is told.
        let _ = (&mut self.shed).await;
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
        let mut sources = lock(&self.shared.sources);
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        lock(&self.shared.handshakes).end(self.source, self.number);
    }
}

/// Nothing panics while it holds one of these.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    fn admission(per_source: usize, handshakes: usize) -> Admission {
        Admission::new(Bounds {
            connections: 1,
            per_source,
            handshakes,
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
            let entered = admission.enter(source.parse().unwrap());
            assert_eq!(entered.is_some(), enters, "{source}");
            inside.extend(entered);
        }
        inside.remove(0);
        assert!(admission.enter("192.0.2.1".parse().unwrap()).is_some());
        inside.clear();
        assert!(
            lock(&admission.0.sources).is_empty(),
            "nobody is kept in mind"
        );
    }

    #[tokio::test]
    async fn p138_the_oldest_handshake_of_the_busiest_source_makes_room() {
        let admission = admission(9, 3);
        let [one, two] = ["192.0.2.1", "192.0.2.2"].map(|source| source.parse().unwrap());
        let is_shed = async |handshake: &mut (Place, Handshake)| {
            timeout(Duration::ZERO, handshake.1.shed()).await.is_ok()
        };
        let mut other = admission.enter(one).unwrap();
        let mut flood: Vec<_> = (0..4).map(|_| admission.enter(two).unwrap()).collect();
        for (index, shed) in [true, true, false, false].into_iter().enumerate() {
            assert_eq!(is_shed(&mut flood[index]).await, shed, "{index}");
        }
        drop(flood.pop());
        flood.push(admission.enter(two).unwrap());
        assert!(!is_shed(&mut flood[2]).await, "a finished one makes room");
        assert!(!is_shed(&mut other).await);
        drop((flood, other));
        let handshakes = lock(&admission.0.handshakes);
        assert!(handshakes.count == 0 && handshakes.sources.is_empty());
    }
}
