//! Counts of requests in flight on connections and endpoints, and the callers they are counted for.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use common::{fair::FairQueue, lock::lock};
use serve::shares::{Eviction, Permit, Shares};
use tokio::time::Instant;

use super::{caller::Caller, exclusive_limit::ExclusivePermit, resets::Resets};

/// The most bytes of bodies that the unanswered requests of a shared connection have together. Every
/// peer's window for a connection is 65,535 bytes or more (RFC 9113 §6.9.2). A body that the upstream
/// does not read therefore does not hold back that of another caller.
const SHARED_BODY_BYTES: usize = 32 * 1024;

/// The number of requests in flight on a connection, or on all connections of an endpoint.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    requests: AtomicUsize,
    body_bytes: AtomicUsize,
    answers: AtomicU64,
    /// The requests of a shared connection that nobody waits for any more.
    abandoned: AtomicUsize,
    /// The resets that a shared connection may have.
    resets: Mutex<Resets>,
    /// Set once a shared connection had no reset left when it needed one.
    is_spent: AtomicBool,
    /// The endpoint's counts, if these are a shared connection's.
    endpoint: Option<Arc<Self>>,
    /// Requests that wait for room on a connection.
    room: Option<Arc<FairQueue>>,
}

/// A request that is counted until all of its answer has come, and all clones are dropped.
#[derive(Clone, Debug)]
pub(super) struct CountedRequest(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    counts: Arc<InFlight>,
    since: Instant,
    body_bytes: usize,
    hold: Option<Hold>,
    /// The permit for an exclusive connection, if it is one.
    _permit: Option<ExclusivePermit>,
}

/// A request on a shared connection that nobody waits for any more.
#[derive(Debug)]
pub(super) struct AbandonedRequest(CountedRequest);

/// A source's hold on the room of shared connections.
#[derive(Debug)]
struct Hold {
    _permit: Permit,
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

    /// Returns whether a shared connection takes no more requests because it has no reset left.
    pub(super) fn is_spent(&self) -> bool {
        self.is_spent.load(Relaxed)
    }

    /// Returns these counts and, if they are a connection's, those of its endpoint.
    fn with_endpoint(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(self.endpoint.as_deref())
    }

    fn endpoint(&self) -> &Self {
        self.endpoint.as_deref().unwrap_or(self)
    }
}

impl CountedRequest {
    /// Counts a request with a body of `body_bytes`.
    pub(super) fn on(counts: &Arc<InFlight>, body_bytes: usize) -> Self {
        for counts in counts.with_endpoint() {
            counts.requests.fetch_add(1, Relaxed);
        }
        counts.body_bytes.fetch_add(body_bytes, Relaxed);
        Self(Arc::new(Counted {
            counts: Arc::clone(counts),
            since: Instant::now(),
            body_bytes,
            hold: None,
            _permit: None,
        }))
    }

    /// Counts the request for its caller's source too, which may have to make room.
    pub(super) fn count_for(&mut self, holders: &Shares, caller: &Caller) {
        let permit = holders.of(caller.source).enter(&caller.eviction);
        let hold = permit.ok().map(|permit| Hold {
            _permit: permit,
            eviction: Arc::clone(&caller.eviction),
        });
        if let Some(counted) = Arc::get_mut(&mut self.0) {
            counted.hold = hold;
        }
    }

    /// Keeps the permit for its exclusive connection until the request is over.
    pub(super) fn keep(&mut self, permit: ExclusivePermit) {
        if let Some(counted) = Arc::get_mut(&mut self.0) {
            counted._permit = Some(permit);
        }
    }

    /// Returns whether the request has to make room.
    pub(super) fn is_evicted(&self) -> bool {
        let hold = self.0.hold.as_ref();
        hold.is_some_and(|hold| hold.eviction.is_evicted())
    }

    /// Notes that the answer has begun.
    pub(super) fn answered(&self) {
        self.0.counts.endpoint().answers.fetch_add(1, Relaxed);
    }

    /// Returns [`InFlight::answers`].
    pub(super) fn answers(&self) -> u64 {
        self.0.counts.answers()
    }

    /// Returns the time since the request was sent.
    pub(super) fn age(&self) -> Duration {
        self.0.since.elapsed()
    }

    /// Counts the request as one that nobody waits for any more.
    pub(super) fn abandon(self) -> AbandonedRequest {
        self.0.counts.abandoned.fetch_add(1, Relaxed);
        AbandonedRequest(self)
    }
}

impl AbandonedRequest {
    /// Returns whether the request's stream may be reset. A connection that has no reset left takes no
    /// new requests, and once nobody waits for those that it has, more resets harm no caller.
    pub(super) fn may_reset(&self) -> bool {
        let counts = self.counts();
        if lock(&counts.resets).take(Instant::now()) {
            return true;
        }
        counts.is_spent.store(true, Relaxed);
        counts.abandoned.load(Relaxed) == counts.requests()
    }

    fn counts(&self) -> &InFlight {
        let Self(CountedRequest(counted)) = self;
        &counted.counts
    }
}

impl Drop for AbandonedRequest {
    fn drop(&mut self) {
        self.counts().abandoned.fetch_sub(1, Relaxed);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let counts = &self.counts;
        for counts in counts.with_endpoint() {
            counts.requests.fetch_sub(1, Relaxed);
        }
        counts.body_bytes.fetch_sub(self.body_bytes, Relaxed);
        if let Some(room) = &counts.endpoint().room {
            room.call_next();
        }
    }
}
