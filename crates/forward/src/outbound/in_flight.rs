//! Counts of requests in flight on connections and endpoints, and the callers they are counted for.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use common::fair::FairQueue;
use serve::shares::{Eviction, Held, Shares};

/// The most bytes of bodies that the unanswered requests of a shared connection have together. Every
/// peer's window for a connection is 65,535 bytes or more (RFC 9113 §6.9.2). So a body that the
/// upstream does not read does not hold back another caller's.
const SHARED_BODY_BYTES: usize = 32 * 1024;

/// The caller of a listener that a request comes from.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The source that its requests are counted for.
    pub(crate) source: IpAddr,
    /// Tells the request to make room for another source's.
    pub(crate) eviction: Arc<Eviction>,
}

/// The number of requests in flight on a connection, or on all connections of an endpoint.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    requests: AtomicUsize,
    body_bytes: AtomicUsize,
    answers: AtomicU64,
    /// Present for a shared connection.
    endpoint: Option<Arc<Self>>,
    /// Requests that wait for room on a connection.
    room: Option<Arc<FairQueue>>,
}

/// A request that is counted until all of its answer has come.
#[derive(Debug)]
pub(super) struct CountedRequest {
    counts: Arc<InFlight>,
    body_bytes: usize,
    hold: Option<Arc<Hold>>,
}

/// A source's hold on the room of shared connections.
#[derive(Debug)]
struct Hold {
    _held: Held,
    eviction: Arc<Eviction>,
}

impl InFlight {
    /// Returns the counts of an endpoint, whose requests make room for those in `room`.
    pub(super) fn of_endpoint(room: &Arc<FairQueue>) -> Arc<Self> {
        Arc::new(Self {
            room: Some(Arc::clone(room)),
            ..Self::default()
        })
    }

    /// Returns the counts of a shared connection to `endpoint`.
    pub(super) fn of_connection(endpoint: &Arc<Self>) -> Arc<Self> {
        Arc::new(Self {
            endpoint: Some(Arc::clone(endpoint)),
            ..Self::default()
        })
    }

    /// Returns whether a shared connection has room for a body of `body_bytes`.
    pub(super) fn has_room_for(&self, body_bytes: usize) -> bool {
        let all = self.body_bytes.load(Relaxed).saturating_add(body_bytes);
        body_bytes == 0 || all <= SHARED_BODY_BYTES
    }

    /// Returns the number of requests whose answers have not come in full.
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }

    /// Returns the number of answers of the endpoint that have begun so far.
    pub(super) fn answers(&self) -> u64 {
        self.endpoint().answers.load(Relaxed)
    }

    fn endpoint(&self) -> &Self {
        self.endpoint.as_deref().unwrap_or(self)
    }
}

impl CountedRequest {
    /// Counts a request with a body of `body_bytes`.
    pub(super) fn on(counts: &Arc<InFlight>, body_bytes: usize) -> Self {
        for counts in [Some(counts), counts.endpoint.as_ref()]
            .into_iter()
            .flatten()
        {
            counts.requests.fetch_add(1, Relaxed);
        }
        counts.body_bytes.fetch_add(body_bytes, Relaxed);
        Self {
            counts: Arc::clone(counts),
            body_bytes,
            hold: None,
        }
    }

    /// Counts the request for its caller's source too, which may have to make room.
    pub(super) fn count_for(&mut self, holders: &Shares, caller: &Caller) {
        let held = holders.of(caller.source).enter(&caller.eviction);
        self.hold = held.ok().map(|held| {
            Arc::new(Hold {
                _held: held,
                eviction: Arc::clone(&caller.eviction),
            })
        });
    }

    /// Returns whether the request has to make room.
    pub(super) fn is_evicted(&self) -> bool {
        let hold = self.hold.as_ref();
        hold.is_some_and(|hold| hold.eviction.is_evicted())
    }

    /// Notes that the answer has begun.
    pub(super) fn answered(&self) {
        self.counts.endpoint().answers.fetch_add(1, Relaxed);
    }

    /// Returns [`InFlight::answers`].
    pub(super) fn answers(&self) -> u64 {
        self.counts.answers()
    }
}

/// Counts once more: the request is over when all clones are dropped.
impl Clone for CountedRequest {
    fn clone(&self) -> Self {
        let mut clone = Self::on(&self.counts, self.body_bytes);
        clone.hold.clone_from(&self.hold);
        clone
    }
}

impl Drop for CountedRequest {
    fn drop(&mut self) {
        let counts = &self.counts;
        for counts in [Some(counts), counts.endpoint.as_ref()]
            .into_iter()
            .flatten()
        {
            counts.requests.fetch_sub(1, Relaxed);
        }
        counts.body_bytes.fetch_sub(self.body_bytes, Relaxed);
        if let Some(room) = &counts.endpoint().room {
            room.call_next();
        }
    }
}
