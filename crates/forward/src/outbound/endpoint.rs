//! An endpoint: its connections, its health, and the versions of HTTP that it speaks.

use std::{sync::Arc, time::Duration};

use common::fair::FairQueue;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;

use super::{
    age::Age,
    choice::least_of_two,
    connection::{Connection, Opened},
    connector::Offer,
    error::Error,
    exclusive::ExclusiveConnection,
    generation::Generation,
    health::Health,
    http2::FAR,
    in_flight::InFlight,
    origin::Location,
    prepared::{Need, RequestBody, Speech},
    shared::SharedConnection,
    status::{Ejection, EndpointStatus},
};

/// The shared connections of one core to one endpoint that a busy core opens to spread its work. A
/// server of ours serves each of them on one core, so a single one would keep a busy proxy's requests
/// from the others. More of them write smaller batches, which costs CPU time.
const SPREAD: usize = 3;

/// The requests on each shared connection before another is opened to spread them. This many make a
/// good batch.
const BUSY: usize = 32;

/// The most shared connections of one core to one endpoint. Beyond [`SPREAD`] they are opened where
/// the endpoint takes few requests on one.
const MAX_SHARED: usize = 64;

/// The most idle exclusive connections that are kept. More are closed as they become idle.
const MAX_IDLE: usize = 256;

/// The most connections of one core to one endpoint beyond [`ExclusiveLimit`](super::ExclusiveLimit):
/// shared ones, and exclusive ones without a request.
pub const MAX_KEPT: usize = MAX_SHARED + MAX_IDLE;

/// The outcome of opening a connection, for all that wait for it.
pub(super) type Opening = Shared<BoxFuture<'static, Result<(), Error>>>;

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

/// One server of an upstream.
pub(super) struct Endpoint<B> {
    pub(super) location: Arc<Location>,
    pub(super) health: Health,
    /// The text of the last failure.
    pub(super) failure: Option<String>,
    pub(super) in_flight: Arc<InFlight>,
    /// The shared connection that is being opened, for all that wait for one.
    pub(super) opening: Option<Opening>,
    protocol: Protocol,
    shared: Vec<Arc<SharedConnection>>,
    /// The exclusive connections without a request. The one used last comes last.
    idle: Vec<ExclusiveConnection<B>>,
}

impl<B: RequestBody> Endpoint<B> {
    /// Begins without a connection. Each request that ends makes room for one in `room`.
    pub(super) fn new(location: &Arc<Location>, room: &Arc<FairQueue>) -> Self {
        Self {
            location: Arc::clone(location),
            health: Health::default(),
            failure: None,
            in_flight: InFlight::of_endpoint(room),
            opening: None,
            protocol: Protocol::Unknown,
            shared: Vec::new(),
            idle: Vec::new(),
        }
    }

    /// Returns the state. Its name has the address if there are `several` endpoints.
    pub(super) fn status(&mut self, several: bool, now: Instant) -> EndpointStatus {
        let shared = self.shared.iter().filter(|one| one.is_open()).count();
        let idle = self
            .idle
            .iter_mut()
            .filter_map(|one| one.is_usable(now).then_some(()));
        let ejected = self.health.ejected(now).map(|until| Ejection {
            left: until - now,
            reason: self.failure.clone().unwrap_or_default(),
        });
        EndpointStatus {
            at: self.location.at(several).to_string(),
            connections: shared + idle.count(),
            requests: self.in_flight.requests(),
            ejected,
        }
    }

    /// Returns the number that distinguishes the endpoint from all others.
    pub(super) fn id(&self) -> u64 {
        self.location.id
    }

    /// Returns whether the endpoint speaks HTTP/1.1 alone, as far as is known.
    pub(super) fn is_http1(&self) -> bool {
        self.protocol == Protocol::Http1
    }

    /// Returns whether a request could go there now, over a connection of generation `since` or later.
    pub(super) fn has_room(&self, need: Need, since: Generation) -> bool {
        let now = Instant::now();
        self.choose_shared(need, since).is_some() || self.choose_idle(need, since, now).is_some()
    }

    /// Returns whether there is an idle connection or a shared one.
    pub(super) fn has_connection(&self) -> bool {
        !self.shared.is_empty() || !self.idle.is_empty()
    }

    /// Returns whether there are shared connections, with or without room.
    pub(super) fn has_shared(&self) -> bool {
        !self.shared.is_empty()
    }

    /// Returns whether the endpoint speaks what a request needs, as far as is known.
    pub(super) fn speaks(&self, speech: Speech) -> bool {
        match speech {
            Speech::Http2 => self.protocol != Protocol::Http1,
            Speech::Http1 => self.protocol != Protocol::OnlyHttp2,
            Speech::Any | Speech::PreferHttp2 => true,
        }
    }

    /// Returns whether no connection is known. The pool does not hold a connection while a request uses it
    /// alone. Over HTTP/1.1 the request in flight shows that there is one.
    pub(super) fn is_unconnected(&self) -> bool {
        let is_in_use = self.is_http1() && self.in_flight.requests() > 0;
        !is_in_use && !self.has_connection()
    }

    /// Takes a connection of generation `since` or later for one more request. Drops those that are
    /// found closed or too old.
    pub(super) fn take(
        &mut self,
        need: Need,
        since: Generation,
        now: Instant,
    ) -> Option<Connection<B>> {
        while let Some(index) = self.choose_shared(need, since) {
            let shared = &self.shared[index];
            if shared.touch(now) {
                return Some(Connection::shared(&self.location, shared, need));
            }
            self.shared.swap_remove(index);
        }
        while let Some(index) = self.choose_idle(need, since, now) {
            let mut idle = self.idle.remove(index);
            if idle.is_usable(now) {
                let connection = Connection::exclusive(&self.location, idle, &self.in_flight);
                return Some(connection);
            }
        }
        None
    }

    /// Returns whether a request may take an exclusive connection. A body does so where no shared
    /// connection has room.
    fn takes_exclusive(&self, need: Need) -> bool {
        match need {
            Need::Exclusive(_) => true,
            Need::Shared { bytes, .. } => bytes > 0 || self.is_http1() || self.is_far_for(need),
        }
    }

    /// Returns an idle exclusive connection that a request may take and that speaks what it needs.
    fn choose_idle(&self, need: Need, since: Generation, now: Instant) -> Option<usize> {
        let speaks = |idle: &ExclusiveConnection<B>| match need.speech() {
            Speech::Any => true,
            Speech::PreferHttp2 => idle.is_http2() || self.is_http1(),
            Speech::Http2 => idle.is_http2(),
            Speech::Http1 => !idle.is_http2(),
        };
        let may_take =
            |idle: &ExclusiveConnection<B>| speaks(idle) && idle.may_take(need, since, now);
        let idle = self
            .takes_exclusive(need)
            .then(|| self.idle.iter().rposition(may_take));
        idle.flatten()
    }

    /// Returns whether a new connection for this need would be exclusive.
    pub(super) fn opens_exclusive(&self, need: Need) -> bool {
        self.is_http1() || !self.opens_shared(need)
    }

    /// Returns whether a new connection for this need would be shared, if the endpoint chooses HTTP/2.
    fn opens_shared(&self, need: Need) -> bool {
        self.offer(need) == Offer::Both
    }

    /// Returns whether the round trip is so long that requests which accept HTTP/1.1 share no connection.
    ///
    /// One HTTP/2 stream carries no more than its window in a round trip. Windows that are wide enough for a
    /// long round trip would be held unread by the hundred, whereas TCP's own windows grow with it. A far
    /// endpoint that also speaks HTTP/1.1 therefore gets a connection for each request. With a round trip of
    /// 50 ms, 32 MiB came down at 190 MiB/s, against 4.6 on a shared connection (`scripts/bench.sh --rows far`). A
    /// small request costs server and proxy an eighth more CPU time this way: 28.0 against 24.8 µs (`--rows wrk32`, with
    /// [`FAR`] at zero).
    fn is_far(&self) -> bool {
        let round_trip = self.round_trip();
        self.protocol == Protocol::Http2 && round_trip.is_some_and(|time| time >= FAR)
    }

    /// Returns whether a request to a far endpoint shares no connection. One that needs HTTP/2 does, because
    /// the window of another HTTP/2 connection would be no wider.
    fn is_far_for(&self, need: Need) -> bool {
        need.speech() == Speech::Any && self.is_far()
    }

    /// Returns the round trip that the shared connections measured. An idle one is closed, and the next one
    /// measures again.
    fn round_trip(&self) -> Option<Duration> {
        self.shared.iter().filter_map(|one| one.round_trip()).min()
    }

    /// Draws two of the shared connections with room for a request. Returns the index of the one with fewer
    /// requests in flight.
    fn choose_shared(&self, need: Need, since: Generation) -> Option<usize> {
        let Need::Shared { bytes, .. } = need else {
            return None;
        };
        if self.is_far_for(need) {
            return None;
        }
        let load = |index: usize| {
            let shared = &self.shared[index];
            let can = shared.generation >= since && shared.has_room_for(bytes);
            can.then(|| shared.in_flight.requests())
        };
        least_of_two(self.shared.len(), load, |below| fastrand::usize(..below))
    }

    /// Returns the versions that a new connection for this need has to offer. The first connection
    /// offers all, to learn which the endpoint speaks.
    pub(super) fn offer(&self, need: Need) -> Offer {
        let is_exclusive = match need {
            Need::Exclusive(_) => true,
            Need::Shared { .. } if self.is_far_for(need) => true,
            // There are shared connections without room for the body.
            Need::Shared { bytes, .. } => {
                self.shared.iter().any(|shared| !shared.takes_body(bytes))
            }
        };
        match (self.protocol, need.speech()) {
            (Protocol::Http2, Speech::Any) if is_exclusive => Offer::Http1,
            // An endpoint that spoke HTTP/2 alone may speak more after its restart.
            (Protocol::Http2 | Protocol::OnlyHttp2, Speech::Http1) => Offer::Http1,
            (Protocol::Http2 | Protocol::OnlyHttp2, _) if is_exclusive => Offer::Http2,
            _ => Offer::Both,
        }
    }

    /// Returns whether one more connection may be opened for this need. A peer that takes no requests at
    /// present takes them on no other shared connection either.
    pub(super) fn may_open(&self, need: Need) -> bool {
        let takes_none = |shared: &Arc<SharedConnection>| shared.max_requests() == 0;
        // An endpoint may speak more after its restart, which a connection would tell.
        let may_speak = self.speaks(need.speech()) || self.is_unconnected();
        let may_share = self.shared.len() < MAX_SHARED && !self.shared.iter().any(takes_none);
        may_speak && (may_share || !self.opens_shared(need))
    }

    /// Notes that the endpoint does not speak HTTP/1.1.
    pub(super) fn note_refused_http1(&mut self) {
        self.protocol = Protocol::OnlyHttp2;
    }

    /// Returns whether one more shared connection would spread the requests, or will be needed soon.
    pub(super) fn wants_shared(&self, now: Instant) -> bool {
        let count = self.shared.len();
        if count == 0 || count >= MAX_SHARED || self.opening.is_some() || self.is_far() {
            return false;
        }
        let is_busy = |shared: &Arc<SharedConnection>| {
            let (requests, max) = (shared.in_flight.requests(), shared.max_requests());
            let is_worth_spreading = count < SPREAD && requests > BUSY;
            let is_nearly_full = requests.saturating_add(max / 4) >= max;
            is_worth_spreading || is_nearly_full
        };
        self.shared.iter().all(is_busy) && self.health.ejected(now).is_none()
    }

    /// Takes in a connection that was just opened.
    pub(super) fn add(
        &mut self,
        generation: Generation,
        (opened, age): (Opened<B>, Age),
        offer: Offer,
    ) {
        self.health.note_connected();
        match opened {
            Opened::Shared(sender, round_trip) => {
                if self.protocol != Protocol::OnlyHttp2 {
                    self.protocol = Protocol::Http2;
                }
                let shared =
                    SharedConnection::new(generation, sender, round_trip, age, &self.in_flight);
                self.shared.push(shared);
            }
            Opened::Exclusive(sender) => {
                self.protocol = match (offer, sender.is_http2(), self.protocol) {
                    (Offer::Http1, false, Protocol::OnlyHttp2) => Protocol::Http2,
                    (Offer::Both | Offer::Http2, false, _) => Protocol::Http1,
                    (_, _, known) => known,
                };
                self.idle
                    .push(ExclusiveConnection::new(generation, sender, age));
            }
        }
    }

    /// Takes back an exclusive connection whose request is over.
    pub(super) fn take_back(&mut self, idle: ExclusiveConnection<B>) {
        if self.idle.len() < MAX_IDLE {
            self.idle.push(idle);
        }
    }

    /// Drops one shared connection. Requests on it continue.
    pub(super) fn discard(&mut self, shared: &Arc<SharedConnection>) {
        self.shared.retain(|one| !Arc::ptr_eq(one, shared));
    }

    /// Drops all connections. They end with the requests on them.
    pub(super) fn discard_all(&mut self) {
        self.shared.clear();
        self.idle.clear();
    }

    /// Drops shared connections that are closed.
    pub(super) fn discard_closed(&mut self) {
        self.shared.retain(|shared| shared.is_open());
    }

    /// Drops the connections that are closed, too old, or were idle for too long.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.shared.retain(|shared| shared.is_kept(now));
        self.idle.retain_mut(|idle| idle.is_usable(now));
    }
}
