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
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared},
    stream::FuturesUnordered,
};
use http::Uri;
use spiffe::SpiffeId;
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    Error, RequestBody, Target,
    connection::{Connection, Idle, InFlight, Opened, handshake},
    connector::{Connector, Fault},
    endpoint::{Endpoint, Place},
    origin::{At, Origin},
    state::{Failed, State, above},
};
use crate::tls;

/// How long an endpoint has to connect before another one is tried as well (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);

/// How long the last endpoint that is left has to connect when all others have failed: it is probably
/// away, and may just be back and busy with everybody's handshakes.
const LAST_CHANCE: Duration = Duration::from_secs(2);

/// How often connections that are idle or old are looked for, and names in use resolved anew.
const UPKEEP_EVERY: Duration = Duration::from_secs(10);

/// New connections that may be lost to others, or close at once, before a request gives up.
const MAX_LOST: usize = 20;

/// What opening a connection comes to, for all who wait for it.
pub(super) type Opening = Shared<BoxFuture<'static, Result<(), Error>>>;

/// Connections to one target.
pub(super) struct Pool<B> {
    pub(super) expected: SpiffeId,
    pub(super) origins: Vec<Arc<Origin>>,
    connector: Connector,
    state: Mutex<State<B>>,
    /// A name was looked up.
    pub(super) found: Notify,
}

impl<B: RequestBody> Pool<B> {
    /// To `target`, which is at its URL and at `more`.
    pub(super) fn new(target: &Target, more: Vec<Uri>, tls: tls::Outgoing) -> Arc<Self> {
        let urls = std::iter::once(&target.url).chain(&more);
        let origins: Vec<_> = urls.map(|url| Arc::new(Origin::new(url))).collect();
        Arc::new(Self {
            expected: target.id.clone(),
            connector: Connector::new(tls, target.connect_timeout),
            state: Mutex::new(State::new(&origins)),
            origins,
            found: Notify::new(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection for a request; for its second attempt not the one that `failed`, nor one that was
    /// open beside it: what closed the one may have closed the other.
    pub(super) async fn connection(
        self: &Arc<Self>,
        failed: Option<&Failed>,
    ) -> Result<Connection<B>, Error> {
        if let Some(connection) = self.take(failed) {
            return Ok(connection);
        }
        let mut tried = Vec::new();
        let connecting = self.connect(failed, &mut tried);
        match timeout(self.connector.timeout(), connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(self.too_late(&tried)),
        }
    }

    fn take(self: &Arc<Self>, failed: Option<&Failed>) -> Option<Connection<B>> {
        let now = Instant::now();
        let mut state = self.lock();
        if state.look.is_some_and(|look| look <= now) {
            self.look_after(&mut state, now);
        }
        while let Some(index) = state.choose(failed) {
            let endpoint = &mut state.endpoints[index];
            if let Some(connection) = endpoint.take(above(failed, endpoint), now) {
                if endpoint.wants_lane(now) {
                    let _runs_by_itself = self.open(&mut state, index);
                }
                return Some(connection);
            }
            state.look_at(now);
        }
        None
    }

    /// Opens connections to endpoints that have none and may be tried.
    fn look_after(self: &Arc<Self>, state: &mut State<B>, now: Instant) {
        for index in 0..state.endpoints.len() {
            let endpoint = &state.endpoints[index];
            if endpoint.is_unconnected() && endpoint.health.left_out(now).is_none() {
                let _runs_by_itself = self.open(state, index);
            }
        }
        let left_out = |endpoint: &Endpoint<B>| endpoint.health.left_out(now);
        state.look = state.endpoints.iter().filter_map(left_out).min();
    }

    /// Opens connections, to one endpoint after the other, until there is one for this request. The
    /// last one may be left out at the time: better that than to fail, and if the request does fail,
    /// it is by what is really wrong.
    async fn connect(
        self: &Arc<Self>,
        failed: Option<&Failed>,
        tried: &mut Vec<u64>,
    ) -> Result<Connection<B>, Error> {
        self.resolved().await?;
        let (mut opening, mut failure, mut lost) = (FuturesUnordered::new(), None, 0);
        let mut is_last = false;
        loop {
            if !is_last && let Some((id, one, left_out)) = self.open_next(failed, tried) {
                is_last = left_out;
                tried.push(id);
                opening.push(one.map(move |opened| (id, opened)));
            } else if opening.is_empty() {
                return Err(failure.unwrap_or_else(|| self.lost(tried)));
            }
            tokio::select! {
                Some((id, opened)) = opening.next() => match opened {
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
            if let Some(connection) = self.take(failed) {
                return Ok(connection);
            }
        }
    }

    /// Opens a connection to the next endpoint to try; whether it is left out.
    fn open_next(
        self: &Arc<Self>,
        failed: Option<&Failed>,
        tried: &[u64],
    ) -> Option<(u64, Opening, bool)> {
        let mut state = self.lock();
        let (index, left_out) = match state.choose_to_open(failed, tried) {
            Some(index) => (index, false),
            None => (state.failed_longest_ago(tried)?, true),
        };
        let id = state.endpoints[index].id;
        Some((id, self.open(&mut state, index), left_out))
    }

    /// Opens a connection, or waits for the one that is being opened.
    fn open(self: &Arc<Self>, state: &mut State<B>, index: usize) -> Opening {
        self.resolve_again(state);
        let endpoint = &mut state.endpoints[index];
        if let Some(opening) = &endpoint.opening {
            return opening.clone();
        }
        let opening = Arc::clone(self).opened(endpoint.id, Arc::clone(&endpoint.place));
        let opening = opening.boxed().shared();
        tokio::spawn(opening.clone());
        // An HTTP/1.1 connection is for one request: each that waits needs its own.
        if !endpoint.is_http1() {
            endpoint.opening = Some(opening.clone());
        }
        opening
    }

    async fn opened(self: Arc<Self>, id: u64, place: Arc<Place>) -> Result<(), Error> {
        loop {
            let outdated = self.lock().outdated;
            let opened = self.opened_once(&place).await;
            let mut state = self.lock();
            // Else it was verified by what is no longer so.
            if outdated == state.outdated {
                return state.settle(id, opened);
            }
        }
    }

    async fn opened_once(&self, place: &Place) -> Result<Opened<B>, Error> {
        let fault = match self.connector.connect(place).await {
            Ok(tls) => match handshake(tls).await {
                Ok(opened) => return Ok(opened),
                Err(error) => return Err(Error::unanswered(&error, self.at(place))),
            },
            Err(fault) => fault,
        };
        // After a withdrawal a handshake fails by what looks like the target's fault.
        Err(match self.connector.is_usable() {
            true => Error::unconnected(&fault, self.at(place), self.expected.clone()),
            false => Error::NoTrust(self.at(place)),
        })
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
    pub(super) fn leave(&self, connection: &Connection<B>) {
        if let Some(endpoint) = self.lock().endpoint(connection.endpoint) {
            endpoint.leave(connection.number());
        }
    }

    /// Keeps a connection that has begun its answer for other requests, once it is free of this one.
    pub(super) fn keep(self: &Arc<Self>, connection: Connection<B>) -> InFlight {
        let endpoint = connection.endpoint;
        let (in_flight, idle) = connection.into_parts();
        if let Some(mut idle) = idle {
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
        in_flight
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
pub(super) async fn upkeep<B: RequestBody>(pool: Weak<Pool<B>>, mut tls: tls::Outgoing) {
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
