//! An endpoint: its connections, and how it fares.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    RequestBody,
    choice::least_of_two,
    connection::{Connection, Idle, Lane, Load, Opened},
    health::Health,
    origin::{Addresses, At, Origin},
    pool::Opening,
};

/// HTTP/2 connections of one core to one endpoint. A server of ours serves each of them on one core, so
/// one alone would keep a busy proxy's requests from the others. More of them write smaller batches,
/// which costs CPU time.
const LANES: usize = 3;

/// Requests on each of the lanes there are before another is opened: as many as make a good batch, and
/// fewer than any server of HTTP/2 takes at once (RFC 9113 §6.5.2 recommends 100).
const BUSY: usize = 32;

/// Idle HTTP/1.1 connections that are kept; more are closed as they become idle.
const MAX_IDLE: usize = 64;

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
    /// The connection that is being opened, for all who wait for one.
    pub(super) opening: Option<Opening>,
    /// What its last connection spoke.
    is_http1: bool,
    lanes: Vec<Arc<Lane<B>>>,
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
    pub(super) fn new(id: u64, origin: &Arc<Origin>, addresses: Addresses) -> Self {
        Self {
            id,
            place: Arc::new(Place {
                origin: Arc::clone(origin),
                addresses,
            }),
            health: Health::default(),
            load: Arc::default(),
            opening: None,
            is_http1: false,
            lanes: Vec::new(),
            idle: Vec::new(),
        }
    }

    /// Whether it speaks HTTP/1.1, as far as is known.
    pub(super) fn is_http1(&self) -> bool {
        self.is_http1
    }

    /// Whether a request could go there now, over a connection with a number above `above`.
    pub(super) fn has_connection(&self, above: u64) -> bool {
        self.lanes.iter().any(|lane| lane.number > above)
            || self.idle.iter().any(|idle| idle.number > above)
    }

    /// Whether it has no connection at all, idle or busy.
    pub(super) fn is_unconnected(&self) -> bool {
        let is_busy = self.is_http1 && self.load.requests() > 0;
        !is_busy && !self.has_connection(0)
    }

    /// A connection with a number above `above` for one more request. Those found closed or too old
    /// are left.
    pub(super) fn take(&mut self, above: u64, now: Instant) -> Option<Connection<B>> {
        while let Some(index) = self.lane(above) {
            let lane = &self.lanes[index];
            if lane.is_to_be_used(now) {
                return Some(Connection::over_lane(self.id, &self.place, lane));
            }
            self.lanes.swap_remove(index);
        }
        while let Some(index) = self.idle.iter().rposition(|idle| idle.number > above) {
            let idle = self.idle.remove(index);
            if idle.is_usable(now) {
                return Some(Connection::over_idle(
                    self.id,
                    &self.place,
                    idle,
                    &self.load,
                ));
            }
        }
        None
    }

    fn lane(&self, above: u64) -> Option<usize> {
        let newer = self.lanes.iter().enumerate();
        let newer = newer.filter(|(_, lane)| lane.number > above);
        let loads = newer.map(|(index, lane)| (index, lane.load.requests()));
        least_of_two(loads, |below| fastrand::usize(..below))
    }

    /// Whether one more lane would spread what there is to do.
    pub(super) fn wants_lane(&self, now: Instant) -> bool {
        let is_busy = |lane: &Arc<Lane<B>>| lane.load.requests() > BUSY;
        self.lanes.len() < LANES
            && self.opening.is_none()
            && !self.lanes.is_empty()
            && self.lanes.iter().all(is_busy)
            && self.health.left_out(now).is_none()
    }

    /// Takes in a connection that was just opened.
    pub(super) fn add(&mut self, number: u64, opened: Opened<B>) {
        self.health.connects();
        self.is_http1 = matches!(opened, Opened::Http1(_));
        match opened {
            Opened::Http2(sender) => self.lanes.push(Lane::new(number, sender, &self.load)),
            Opened::Http1(sender) => self.idle.push(Idle::new(number, sender)),
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

    /// Leaves the connections that are closed, too old, or were idle for too long.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.lanes.retain(|lane| lane.is_kept(now));
        self.idle.retain(|idle| idle.is_usable(now));
    }
}
