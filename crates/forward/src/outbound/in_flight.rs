//! Counts of requests in flight on connections and endpoints, and whom they are counted for.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use common::fair::FairQueue;
use serve::shares::{Eviction, Held, Shares};

use super::Caller;

/// Bytes of bodies that the unanswered requests of a lane have at most, all together. Every peer's
/// window for a connection is 65,535 bytes or more (RFC 9113 §6.9.2), so that bodies which the
/// upstream does not read hold back nobody else's.
const LANE_BODY_BYTES: usize = 32 * 1024;

/// The requests on a connection, or on all of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Load {
    requests: AtomicUsize,
    body_bytes: AtomicUsize,
    answers: AtomicU64,
    /// The endpoint's, if this is a lane's.
    whole: Option<Arc<Self>>,
    /// Requests that wait for room on a connection.
    room: Option<Arc<FairQueue>>,
}

/// A request, until all of its answer has come.
#[derive(Debug)]
pub(super) struct InFlight {
    load: Arc<Load>,
    body_bytes: usize,
    hold: Option<Arc<Hold>>,
}

/// A source's hold on the room of lanes.
#[derive(Debug)]
struct Hold {
    _held: Held,
    eviction: Arc<Eviction>,
}

impl Load {
    /// An endpoint's, whose requests make room for those in `room`.
    pub(super) fn of_endpoint(room: &Arc<FairQueue>) -> Arc<Self> {
        Arc::new(Self {
            room: Some(Arc::clone(room)),
            ..Self::default()
        })
    }

    /// A lane's, of an endpoint with the load `whole`.
    pub(super) fn of_lane(whole: &Arc<Self>) -> Arc<Self> {
        Arc::new(Self {
            whole: Some(Arc::clone(whole)),
            ..Self::default()
        })
    }

    /// Returns whether a lane has room for a body of so many bytes.
    pub(super) fn has_room_for(&self, body_bytes: usize) -> bool {
        let all = self.body_bytes.load(Relaxed).saturating_add(body_bytes);
        body_bytes == 0 || all <= LANE_BODY_BYTES
    }

    /// Requests whose answers have not come in full.
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }

    /// Answers of the endpoint that have begun so far.
    pub(super) fn answers(&self) -> u64 {
        self.endpoint().answers.load(Relaxed)
    }

    fn endpoint(&self) -> &Self {
        self.whole.as_deref().unwrap_or(self)
    }
}

impl InFlight {
    pub(super) fn on(load: &Arc<Load>, body_bytes: usize) -> Self {
        for load in [Some(load), load.whole.as_ref()].into_iter().flatten() {
            load.requests.fetch_add(1, Relaxed);
        }
        load.body_bytes.fetch_add(body_bytes, Relaxed);
        Self {
            load: Arc::clone(load),
            body_bytes,
            hold: None,
        }
    }

    /// Counts it for its caller's source, which may have to make room.
    pub(super) fn count_for(&mut self, holders: &Shares, caller: &Caller) {
        let held = holders.of(caller.source).enter(&caller.eviction);
        self.hold = held.ok().map(|held| {
            Arc::new(Hold {
                _held: held,
                eviction: Arc::clone(&caller.eviction),
            })
        });
    }

    /// Returns whether it has to make room.
    pub(super) fn is_evicted(&self) -> bool {
        let hold = self.hold.as_ref();
        hold.is_some_and(|hold| hold.eviction.is_evicted())
    }

    /// The answer has begun.
    pub(super) fn answered(&self) {
        self.load.endpoint().answers.fetch_add(1, Relaxed);
    }

    /// Returns [`Load::answers`].
    pub(super) fn answers(&self) -> u64 {
        self.load.answers()
    }
}

/// Counts once more: the request is over when all are dropped.
impl Clone for InFlight {
    fn clone(&self) -> Self {
        let mut again = Self::on(&self.load, self.body_bytes);
        again.hold.clone_from(&self.hold);
        again
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let load = &self.load;
        for load in [Some(load), load.whole.as_ref()].into_iter().flatten() {
            load.requests.fetch_sub(1, Relaxed);
        }
        load.body_bytes.fetch_sub(self.body_bytes, Relaxed);
        if let Some(room) = &load.endpoint().room {
            room.call_next();
        }
    }
}
