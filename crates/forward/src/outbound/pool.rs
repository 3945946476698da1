//! One core's connections to the endpoints of a target: which of them a request takes, and when new
//! ones are opened.
//!
//! A request goes over a connection that is open, on the endpoint with less to do of two; it waits
//! for a new connection only where there is none. Endpoints without a connection are tried beside
//! the requests, so that one that is away costs nobody anything.
//!
//! Connections are verified when they are opened and never after. So they are left for new ones
//! after a change of the trust bundle, by a task of their own ([`upkeep`]): also if no request comes.

use std::{
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

use common::{
    fair::{FairQueue, TooMany},
    lock::lock,
    tls,
};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use serve::shares::{Own, Shares};
use spiffe::SpiffeId;
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at},
};

use super::{
    Caller, Error, RequestBody,
    connection::{Connection, Idle},
    connector::{Connector, Fault, Offer},
    endpoint::{Endpoint, Place},
    opening::Opening,
    origin::{At, Origin},
    prepared::Need,
    state::{Failed, State, above},
    upstream::Upstream,
};

/// How long an endpoint has to connect before another one is tried as well (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);

/// How long the last endpoint that is left has to connect when all others have failed: it is probably
/// away, and may just be back and busy with everybody's handshakes.
const LAST_CHANCE: Duration = Duration::from_secs(2);

/// How often connections that are idle or old are looked for, and names in use resolved anew.
const UPKEEP_EVERY: Duration = Duration::from_secs(10);

/// New connections that may be lost to others, or close at once, before a request gives up.
const MAX_LOST: usize = 20;

/// Requests of one core that may wait for room on a connection.
const MAX_QUEUED: usize = 2000;

/// The pause after which a request that waits for room looks for some itself.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The time after which a request that waits for room gets some from the source that holds the most.
const EVICTING: Duration = Duration::from_millis(400);

/// Connections to one target.
pub(super) struct Pool<B> {
    pub(super) expected: SpiffeId,
    pub(super) origins: Vec<Arc<Origin>>,
    pub(super) connector: Connector,
    state: Mutex<State<B>>,
    /// A name was looked up.
    pub(super) found: Notify,
    /// Requests that wait for room on a connection, source by source.
    room: Arc<FairQueue>,
    /// Requests on lanes, by source.
    holders: Shares,
    queue_timeout: Duration,
}

impl<B: RequestBody> Pool<B> {
    pub(super) fn new(upstream: &Upstream, tls: tls::Outgoing) -> Arc<Self> {
        let urls = upstream.urls.iter();
        let origins: Vec<_> = urls.map(|url| Arc::new(Origin::new(url))).collect();
        let room = Arc::new(FairQueue::new(MAX_QUEUED));
        Arc::new(Self {
            expected: upstream.id.clone(),
            connector: Connector::new(tls, upstream.connect_timeout),
            state: Mutex::new(State::new(&origins, &room)),
            origins,
            found: Notify::new(),
            room,
            holders: Shares::new(usize::MAX, usize::MAX, Own::Refused),
            queue_timeout: upstream.queue_timeout,
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<B>> {
        lock(&self.state)
    }

    /// A connection for a request; for its second attempt not the one that `failed`, nor one that was
    /// open beside it: what closed the one may have closed the other. Where all that there may be are
    /// full, sources are served in turn.
    pub(super) async fn connection(
        self: &Arc<Self>,
        need: Need,
        caller: &Caller,
        failed: Option<&Failed>,
    ) -> Result<Connection<B>, Error> {
        let begun = Instant::now();
        let may_wait = matches!(need, Need::Shared(_));
        // A request that comes while others wait is not served before them.
        let mut is_its_turn = !may_wait || self.room.is_empty();
        loop {
            if !is_its_turn {
                self.wait_for_room(caller, begun).await?;
            }
            match self.take_or_connect(need, failed).await {
                Ok(Some(mut connection)) => {
                    if may_wait {
                        connection.in_flight.count_for(&self.holders, caller);
                    }
                    self.call_next_if_there_is_room();
                    return Ok(connection);
                }
                Ok(None) => is_its_turn = false,
                Err(error) => {
                    self.room.call_next();
                    return Err(error);
                }
            }
        }
    }

    async fn take_or_connect(
        self: &Arc<Self>,
        need: Need,
        failed: Option<&Failed>,
    ) -> Result<Option<Connection<B>>, Error> {
        if let Some(connection) = self.take(need, failed) {
            return Ok(Some(connection));
        }
        let mut tried = Vec::new();
        let connecting = self.connect(need, failed, &mut tried);
        let connected = timeout(self.connector.timeout(), connecting).await;
        connected.unwrap_or_else(|_| Err(self.too_late(&tried)))
    }

    /// A new lane has room for many: each that was called calls the next.
    pub(super) fn call_next_if_there_is_room(&self) {
        if !self.room.is_empty() && self.lock().choose(Need::Shared(0), None).is_some() {
            self.room.call_next();
        }
    }

    /// Waits until a request has made room, or for a moment: that a peer takes more requests, or has
    /// closed a connection, tells nobody. A source that has waited for long gets room from the one
    /// that holds the most.
    async fn wait_for_room(&self, caller: &Caller, begun: Instant) -> Result<(), Error> {
        let full = |why| Err(Error::Full(self.at_any(&[]), why));
        let now = Instant::now();
        if now >= begun + self.queue_timeout {
            let timeout = humantime::format_duration(self.queue_timeout);
            return full(format!("within {timeout}"));
        }
        if now >= begun + EVICTING {
            self.holders.evict_for(caller.source);
        }
        let waiting = self.room.wait(caller.source, &|| ());
        let until = (now + LOOK_EVERY).min(begun + self.queue_timeout);
        match timeout_at(until, waiting).await {
            Ok(Err(TooMany(max))) => full(format!("and {max} requests wait for it on this core")),
            _ => Ok(()),
        }
    }

    fn take(self: &Arc<Self>, need: Need, failed: Option<&Failed>) -> Option<Connection<B>> {
        let now = Instant::now();
        let mut state = self.lock();
        if state.look.is_some_and(|look| look <= now) {
            self.look_after(&mut state, now);
        }
        while let Some(index) = state.choose(need, failed) {
            let endpoint = &mut state.endpoints[index];
            if let Some(connection) = endpoint.take(need, above(failed, endpoint), now) {
                if endpoint.wants_lane(now) {
                    let _runs_by_itself = self.open(&mut state, index, Offer::Both);
                }
                return Some(connection);
            }
            state.look_at(now);
        }
        state.endpoints.iter_mut().for_each(Endpoint::leave_closed);
        None
    }

    /// Opens connections to endpoints that have none and may be tried.
    fn look_after(self: &Arc<Self>, state: &mut State<B>, now: Instant) {
        for index in 0..state.endpoints.len() {
            let endpoint = &state.endpoints[index];
            if endpoint.is_unconnected() && endpoint.health.left_out(now).is_none() {
                let _runs_by_itself = self.open(state, index, Offer::Both);
            }
        }
        let left_out = |endpoint: &Endpoint<B>| endpoint.health.left_out(now);
        state.look = state.endpoints.iter().filter_map(left_out).min();
    }

    /// Opens connections, to one endpoint after the other, until there is one for this request; none
    /// where there can't be more, and all are full. The last one may be left out at the time: better
    /// that than to fail, and if the request does fail, it is by what is really wrong.
    async fn connect(
        self: &Arc<Self>,
        need: Need,
        failed: Option<&Failed>,
        tried: &mut Vec<u64>,
    ) -> Result<Option<Connection<B>>, Error> {
        self.resolved().await?;
        let (mut opening, mut failure, mut lost) = (FuturesUnordered::new(), None, 0);
        let mut is_last = false;
        loop {
            if !is_last && let Some((id, one, left_out)) = self.open_next(need, failed, tried) {
                is_last = left_out;
                tried.push(id);
                opening.push(one.map(move |opened| (id, opened)));
            } else if opening.is_empty() {
                return match failure {
                    Some(failure) => Err(failure),
                    None if self.is_full(need) => Ok(None),
                    None => Err(self.lost(tried)),
                };
            }
            tokio::select! {
                Some((id, opened)) = opening.next() => match opened {
                    // Others took all its room: one more may have some.
                    Ok(()) if self.is_full(need) => tried.retain(|tried| *tried != id),
                    Ok(()) if lost < MAX_LOST => {
                        lost += 1;
                        tried.retain(|tried| *tried != id);
                    }
                    Ok(()) => {}
                    Err(error) => failure = Some(error),
                },
                () = sleep(if is_last { LAST_CHANCE } else { HEAD_START }) => match failure {
                    Some(failure) if is_last && opening.len() == 1 => return Err(failure),
                    _ => {}
                },
            }
            if let Some(connection) = self.take(need, failed) {
                return Ok(Some(connection));
            }
        }
    }

    /// Opens a connection to the next endpoint to try; whether it is left out.
    fn open_next(
        self: &Arc<Self>,
        need: Need,
        failed: Option<&Failed>,
        tried: &[u64],
    ) -> Option<(u64, Opening, bool)> {
        let mut state = self.lock();
        let (index, left_out) = match state.choose_to_open(need, failed, tried) {
            Some(index) => (index, false),
            None => (state.failed_longest_ago(need, tried)?, true),
        };
        let (id, offer) = (
            state.endpoints[index].id,
            state.endpoints[index].offer(need),
        );
        Some((id, self.open(&mut state, index, offer), left_out))
    }

    /// Returns whether there are connections for this need, and no room on them.
    fn is_full(&self, need: Need) -> bool {
        let has_lanes = || self.lock().endpoints.iter().any(Endpoint::has_lanes);
        matches!(need, Need::Shared(_)) && has_lanes()
    }

    /// What to call an endpoint in an error.
    pub(super) fn at(&self, place: &Place) -> At {
        place.at(self.lock().endpoints.len() > 1)
    }

    fn too_late(&self, tried: &[u64]) -> Error {
        let fault = Fault::Timeout(self.connector.timeout());
        Error::ConnectTimeout(self.at_any(tried), fault.to_string())
    }

    fn lost(&self, tried: &[u64]) -> Error {
        Error::Failed(self.at_any(tried), "it closes new connections".to_owned())
    }

    /// The endpoint that was tried first; before that, the target.
    fn at_any(&self, tried: &[u64]) -> At {
        let state = self.lock();
        let first = tried.first();
        match state.endpoints.iter().find(|one| Some(&one.id) == first) {
            Some(endpoint) => endpoint.place.at(state.endpoints.len() > 1),
            None => At::new(&self.origins[0].url, &[]),
        }
    }

    /// The connection failed its request.
    pub(super) fn failed(&self, connection: &Connection<B>) -> Failed {
        Failed {
            endpoint: connection.endpoint,
            newest: self.lock().newest,
        }
    }

    /// The connection gave no answer in time. If its endpoint gave no other either since then
    /// (`answers`), it is left out for a while.
    pub(super) fn silent(&self, connection: &Connection<B>, answers: u64, error: &Error) {
        if connection.in_flight.answers() != answers {
            return;
        }
        let mut state = self.lock();
        if let Some(endpoint) = state.endpoint(connection.endpoint) {
            endpoint.leave_all();
            state.fails(connection.endpoint, error);
        }
    }

    /// The connection can't be trusted to end where its messages do.
    pub(super) fn leave(&self, endpoint: u64, number: u64) {
        if let Some(endpoint) = self.lock().endpoint(endpoint) {
            endpoint.leave(number);
        }
    }

    /// Keeps a connection that has begun its answer for other requests, once it is free of this one.
    pub(super) fn keep(self: &Arc<Self>, endpoint: u64, mut idle: Idle<B>) {
        let pool = Arc::clone(self);
        let freed = async move {
            if idle.becomes_free().await {
                pool.take_back(endpoint, idle);
            }
        };
        // Often it is free already.
        let mut freed = Box::pin(freed);
        if freed.as_mut().now_or_never().is_none() {
            tokio::spawn(freed);
        }
    }

    fn take_back(&self, endpoint: u64, idle: Idle<B>) {
        let mut state = self.lock();
        if idle.number > state.outdated
            && let Some(endpoint) = state.endpoint(endpoint)
        {
            endpoint.take_back(idle);
        }
    }
}

/// Leaves connections as soon as what they were verified by is no longer so, and those that are idle
/// or old; resolves names in use anew.
pub(super) async fn upkeep<B: RequestBody>(pool: Weak<Pool<B>>, mut tls: tls::ClientTls) {
    let mut ticks = interval(UPKEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let has_changed = tokio::select! {
            () = tls.changed() => true,
            _ = ticks.tick() => false,
        };
        let Some(pool) = pool.upgrade() else {
            return;
        };
        let mut state = pool.lock();
        if has_changed {
            state.renew();
        } else if state.sweep() {
            pool.resolve_again(&mut state);
        }
    }
}
