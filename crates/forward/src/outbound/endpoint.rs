//! An endpoint: its connections, and how it fares.

use std::{sync::Arc, time::Duration};

use common::fair::FairQueue;
use tokio::time::Instant;

use super::{
    RequestBody,
    choice::least_of_two,
    connection::{Connection, Idle, Lane, Opened},
    connector::Offer,
    health::Health,
    http2::FAR,
    in_flight::Load,
    opening::Opening,
    origin::{Addresses, At, Origin},
    prepared::Need,
};

/// Lanes of one core to one endpoint that a busy core opens to spread its work. A server of ours
/// serves each of them on one core, so one alone would keep a busy proxy's requests from the others.
/// More of them write smaller batches, which costs CPU time.
const SPREAD_LANES: usize = 3;

/// Requests on each of the lanes there are before another is opened to spread them: as many as make a
/// good batch.
const BUSY: usize = 32;

/// The most lanes of one core to one endpoint; beyond [`SPREAD_LANES`] they are opened where the
/// endpoint takes few requests on one.
pub(super) const MAX_LANES: usize = 64;

/// Idle connections for one request that are kept; more are closed as they become idle.
const MAX_IDLE: usize = 256;

/// The versions of HTTP that an endpoint speaks, as far as is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Protocol {
    #[default]
    Unknown,
    Http1,
    /// HTTP/2, and HTTP/1.1 too as far as is known.
    Http2,
    OnlyHttp2,
}

/// Where an endpoint is.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) origin: Arc<Origin>,
    pub(super) addresses: Addresses,
}

/// One of a target's servers.
pub(super) struct Endpoint<B> {
    pub(super) id: u64,
    pub(super) place: Arc<Place>,
    pub(super) health: Health,
    pub(super) load: Arc<Load>,
    /// The lane that is being opened, for all who wait for one.
    pub(super) opening: Option<Opening>,
    protocol: Protocol,
    lanes: Vec<Arc<Lane>>,
    /// The one used last comes last.
    idle: Vec<Idle<B>>,
}

impl Place {
    /// What to call it; with its address, if there are `several` endpoints.
    pub(super) fn at(&self, several: bool) -> At {
        match several && self.origin.literal().is_none() {
            true => At::new(&self.origin.url, &self.addresses),
            false => At::new(&self.origin.url, &[]),
        }
    }
}

impl<B: RequestBody> Endpoint<B> {
    pub(super) fn new(
        id: u64,
        origin: &Arc<Origin>,
        addresses: Addresses,
        room: &Arc<FairQueue>,
    ) -> Self {
        Self {
            id,
            place: Arc::new(Place {
                origin: Arc::clone(origin),
                addresses,
            }),
            health: Health::default(),
            load: Load::of_endpoint(room),
            opening: None,
            protocol: Protocol::Unknown,
            lanes: Vec::new(),
            idle: Vec::new(),
        }
    }

    /// Returns whether it speaks HTTP/1.1 alone, as far as is known.
    pub(super) fn is_http1(&self) -> bool {
        self.protocol == Protocol::Http1
    }

    /// Whether a request could go there now, over a connection with a number above `above`.
    pub(super) fn has_room(&self, need: Need, above: u64) -> bool {
        self.lane(need, above).is_some()
            || self.takes_idle(need) && self.idle.iter().any(|idle| idle.number > above)
    }

    /// Returns whether it has a connection without a request, or a lane.
    pub(super) fn has_connection(&self) -> bool {
        !self.lanes.is_empty() || !self.idle.is_empty()
    }

    /// Returns whether it has lanes, with or without room.
    pub(super) fn has_lanes(&self) -> bool {
        !self.lanes.is_empty()
    }

    /// Returns whether it has no connection at all, idle or busy.
    pub(super) fn is_unconnected(&self) -> bool {
        let is_busy = self.is_http1() && self.load.requests() > 0;
        !is_busy && !self.has_connection()
    }

    /// A connection with a number above `above` for one more request. Those found closed or too old
    /// are left.
    pub(super) fn take(&mut self, need: Need, above: u64, now: Instant) -> Option<Connection<B>> {
        while let Some(index) = self.lane(need, above) {
            let lane = &self.lanes[index];
            if lane.is_to_be_used(now) {
                return Some(Connection::over_lane(self.id, &self.place, lane, need));
            }
            self.lanes.swap_remove(index);
        }
        if !self.takes_idle(need) {
            return None;
        }
        while let Some(index) = self.idle.iter().rposition(|idle| idle.number > above) {
            let mut idle = self.idle.remove(index);
            if idle.is_usable(now) {
                let connection = Connection::over_idle(self.id, &self.place, idle, &self.load);
                return Some(connection);
            }
        }
        None
    }

    /// Returns whether a request takes a connection of its own. A body does where no lane has room.
    fn takes_idle(&self, need: Need) -> bool {
        match need {
            Need::Own => true,
            Need::Shared(bytes) => bytes > 0 || self.is_http1() || self.is_far(),
        }
    }

    /// Returns whether requests to it share no connection because the path is long.
    ///
    /// One HTTP/2 stream carries no more than its window in a round trip, and windows as wide as a
    /// long path needs would be held unread by the hundred. TCP's own windows follow the path, so a
    /// far endpoint that speaks HTTP/1.1 too gets a connection for each request: 32 MiB down over
    /// 50 ms at 190 MiB/s, against 4.6 on a lane (`scripts/bench.sh --rows far`). Small requests cost
    /// more so: 28.0 against 24.8 µs for server and proxy (`--rows wrk32`, with [`FAR`] at zero).
    fn is_far(&self) -> bool {
        let is_far = |round_trip| round_trip >= FAR;
        self.protocol == Protocol::Http2 && self.round_trip().is_some_and(is_far)
    }

    /// Returns what its lanes measured. One that is not used ends, and the next one measures again.
    fn round_trip(&self) -> Option<Duration> {
        self.lanes.iter().filter_map(|lane| lane.round_trip()).min()
    }

    fn lane(&self, need: Need, above: u64) -> Option<usize> {
        let Need::Shared(bytes) = need else {
            return None;
        };
        if self.is_far() {
            return None;
        }
        let lanes = self.lanes.iter().enumerate();
        let with_room = lanes.filter(|(_, lane)| {
            lane.number > above
                && lane.load.requests() < lane.max_requests()
                && lane.has_room_for(bytes)
        });
        let loads = with_room.map(|(index, lane)| (index, lane.load.requests()));
        least_of_two(loads, |below| fastrand::usize(..below))
    }

    /// Returns the versions that a new connection for this need has to offer. The first one offers
    /// all, to learn which the endpoint speaks.
    pub(super) fn offer(&self, need: Need) -> Offer {
        let is_own = match need {
            Need::Own => true,
            Need::Shared(_) if self.is_far() => true,
            // There are lanes, and no room for a body on them.
            Need::Shared(bytes) => {
                bytes > 0 && self.lanes.iter().any(|lane| !lane.has_room_for(bytes))
            }
        };
        match self.protocol {
            Protocol::Http2 if is_own => Offer::Http1,
            Protocol::OnlyHttp2 if is_own => Offer::Http2,
            _ => Offer::Both,
        }
    }

    /// Returns whether it may have one more lane. A peer that takes no requests at present takes them on no
    /// other connection either.
    pub(super) fn may_open(&self, offer: Offer) -> bool {
        let takes_none = |lane: &Arc<Lane>| lane.max_requests() == 0;
        offer != Offer::Both || self.lanes.len() < MAX_LANES && !self.lanes.iter().any(takes_none)
    }

    /// The endpoint does not speak HTTP/1.1.
    pub(super) fn refuses_http1(&mut self) {
        self.protocol = Protocol::OnlyHttp2;
    }

    /// Returns whether one more lane would spread the requests, or will be needed soon.
    pub(super) fn wants_lane(&self, now: Instant) -> bool {
        let count = self.lanes.len();
        if count == 0 || count >= MAX_LANES || self.opening.is_some() || self.is_far() {
            return false;
        }
        let is_full = |lane: &Arc<Lane>| {
            let (requests, max) = (lane.load.requests(), lane.max_requests());
            requests.saturating_add(max / 4) >= max
        };
        let is_busy =
            |lane: &Arc<Lane>| count < SPREAD_LANES && lane.load.requests() > BUSY || is_full(lane);
        self.lanes.iter().all(is_busy) && self.health.left_out(now).is_none()
    }

    /// Takes in a connection that was just opened.
    pub(super) fn add(&mut self, number: u64, opened: Opened<B>, offer: Offer) {
        self.health.connects();
        match opened {
            Opened::Lane(sender, round_trip) => {
                if self.protocol != Protocol::OnlyHttp2 {
                    self.protocol = Protocol::Http2;
                }
                self.lanes
                    .push(Lane::new(number, sender, round_trip, &self.load));
            }
            Opened::Own(sender) => {
                if offer == Offer::Both {
                    self.protocol = Protocol::Http1;
                }
                self.idle.push(Idle::new(number, sender));
            }
        }
    }

    /// Takes back a connection that has no request any more.
    pub(super) fn take_back(&mut self, idle: Idle<B>) {
        if self.idle.len() < MAX_IDLE {
            self.idle.push(idle);
        }
    }

    /// Leaves one connection, if it takes more than one request.
    pub(super) fn leave(&mut self, number: u64) {
        self.lanes.retain(|lane| lane.number != number);
    }

    /// Leaves all connections: they end with the requests that they have.
    pub(super) fn leave_all(&mut self) {
        self.lanes.clear();
        self.idle.clear();
    }

    /// Leaves lanes that are closed.
    pub(super) fn leave_closed(&mut self) {
        self.lanes.retain(|lane| lane.is_open());
    }

    /// Leaves the connections that are closed, too old, or were idle for too long.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.lanes.retain(|lane| lane.is_kept(now));
        self.idle.retain_mut(|idle| idle.is_usable(now));
    }
}
