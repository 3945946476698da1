//! The upstream connections of one core, and the tasks that open and close them.

use std::{
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

use common::{fair::FairQueue, lock::lock};
use futures_util::FutureExt;
use spiffe::SpiffeId;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    connection::Connection,
    connector::{Connector, Fault, Offer},
    endpoint::Opening,
    endpoints::{Candidate, Endpoints, Failed},
    error::Error,
    exclusive::ExclusiveConnection,
    origin::{At, Location},
    prepared::{Need, RequestBody},
    resolver::Resolver,
    security::Security,
    status::{EndpointStatus, Observed},
    upstream::Upstream,
};

/// The pause between two sweeps of idle and old connections, and between look-ups of names.
const UPKEEP_EVERY: Duration = Duration::from_secs(10);

/// The connections of one core to an upstream.
pub(super) struct Connections<B> {
    expected: Option<SpiffeId>,
    connector: Connector,
    resolver: Arc<Resolver>,
    endpoints: Mutex<Endpoints<B>>,
    /// Requests that wait for room on a connection.
    room: Arc<FairQueue>,
}

impl<B: RequestBody> Connections<B> {
    /// Begins without a connection. Room on a connection goes to the requests that wait in `room`.
    pub(super) fn new(upstream: &Upstream, security: Security, room: &Arc<FairQueue>) -> Arc<Self> {
        let expected = security.expected().cloned();
        let resolver = Resolver::new(&upstream.urls, expected.clone());
        let connections = Arc::new(Self {
            expected,
            connector: Connector::new(security, upstream.timeouts.connect),
            endpoints: Mutex::new(Endpoints::new(
                &resolver.locations(),
                room,
                upstream.counts(),
            )),
            resolver,
            room: Arc::clone(room),
        });
        upstream.status().add(&connections);
        connections
    }

    /// Returns the endpoints. The core that they belong to takes this lock. The main thread takes it now and
    /// then to read their state.
    pub(super) fn lock(&self) -> MutexGuard<'_, Endpoints<B>> {
        lock(&self.endpoints)
    }

    /// Returns the time that connecting may take.
    pub(super) fn connect_timeout(&self) -> Duration {
        self.connector.timeout()
    }

    /// Waits until the upstream's names are looked up.
    ///
    /// # Errors
    /// Fails when none of them has an endpoint.
    pub(super) async fn resolved(self: &Arc<Self>) -> Result<(), Error> {
        self.resolver.ready(self.update()).await
    }

    /// Returns the function that applies the resolver's answers.
    fn update(self: &Arc<Self>) -> impl Fn(Vec<Arc<Location>>) + Send + Sync + use<B> {
        let connections = Arc::clone(self);
        move |locations| connections.lock().update(&locations)
    }

    /// Takes an open connection with room for the request. Opens others too, where they are missing.
    pub(super) fn take(
        self: &Arc<Self>,
        need: Need,
        failed: Option<&Failed>,
    ) -> Option<Connection<B>> {
        let now = Instant::now();
        let mut endpoints = self.lock();
        for index in endpoints.unconnected(now) {
            let _runs_by_itself = self.open(&mut endpoints, index, Offer::Both);
        }
        let (index, connection) = endpoints.take(need, failed, now)?;
        if endpoints.at_index(index).wants_shared(now) {
            let _runs_by_itself = self.open(&mut endpoints, index, Offer::Both);
        }
        Some(connection)
    }

    /// Opens a connection to the next endpoint to try, if there is one.
    pub(super) fn open_next(
        self: &Arc<Self>,
        need: Need,
        failed: Option<&Failed>,
        tried: &[u64],
    ) -> Option<(Candidate, Opening)> {
        let mut endpoints = self.lock();
        let candidate = endpoints.choose_to_open(need, failed, tried)?;
        let opening = self.open(&mut endpoints, candidate.index, candidate.offer);
        Some((candidate, opening))
    }

    /// Opens a connection on a task of its own, or returns the shared one that is being opened.
    fn open(self: &Arc<Self>, endpoints: &mut Endpoints<B>, index: usize, offer: Offer) -> Opening {
        self.resolver.refresh(self.update());
        let endpoint = endpoints.at_index(index);
        if let (Some(opening), Offer::Both) = (&endpoint.opening, offer) {
            return opening.clone();
        }
        let opening = Arc::clone(self).opened(Arc::clone(&endpoint.location), offer);
        let opening = opening.boxed().shared();
        tokio::spawn(opening.clone());
        // Over HTTP/1.1 each request that waits needs a connection of its own.
        if offer == Offer::Both && !endpoint.is_http1() {
            endpoint.opening = Some(opening.clone());
        }
        opening
    }

    async fn opened(
        self: Arc<Self>,
        location: Arc<Location>,
        mut offer: Offer,
    ) -> Result<(), Error> {
        loop {
            let trusted = self.lock().trusted();
            let opened = match self.connector.open(&location, offer).await {
                Err(Fault::OnlyHttp2) => {
                    offer = Offer::Http2;
                    if let Some(endpoint) = self.lock().get(location.id) {
                        endpoint.note_refused_http1();
                    }
                    continue;
                }
                opened => opened,
            };
            let opened = opened.map_err(|fault| {
                Error::unconnected(&fault, self.at(&location), self.expected.clone())
            });
            let mut endpoints = self.lock();
            // Otherwise the connection was verified with a trust bundle that has since changed.
            if trusted == endpoints.trusted() {
                let settled = endpoints.settle(location.id, offer, opened);
                drop(endpoints);
                self.call_next_if_there_is_room();
                return settled;
            }
        }
    }

    /// Calls the next request that waits for room, if there is room. Each request that was called calls
    /// the next one, because a new shared connection has room for many.
    pub(super) fn call_next_if_there_is_room(&self) {
        if !self.room.is_empty() && self.lock().has_room() {
            self.room.call_next();
        }
    }

    /// Returns whether there are connections for this need, so that a request without room waits for
    /// them.
    pub(super) fn is_full(&self, need: Need) -> bool {
        !need.is_exclusive() && self.lock().has_shared()
    }

    /// Returns the name of an endpoint in errors.
    pub(super) fn at(&self, location: &Location) -> At {
        location.at(self.lock().count() > 1)
    }

    /// Returns the name of the upstream in errors. It is that of the endpoint that was tried first,
    /// if there is one.
    pub(super) fn at_first_of(&self, tried: &[u64]) -> At {
        let mut endpoints = self.lock();
        let several = endpoints.count() > 1;
        let first = tried.first().and_then(|first| endpoints.get(*first));
        first.map_or_else(|| self.resolver.at(), |first| first.location.at(several))
    }

    /// Keeps an exclusive connection for other requests, once its request is over.
    pub(super) fn keep(self: &Arc<Self>, endpoint: u64, mut connection: ExclusiveConnection<B>) {
        let connections = Arc::clone(self);
        let freed = async move {
            if connection.becomes_free().await {
                connections.take_back(endpoint, connection);
            }
        };
        // The request is often over already.
        let mut freed = Box::pin(freed);
        if freed.as_mut().now_or_never().is_none() {
            tokio::spawn(freed);
        }
    }

    fn take_back(&self, endpoint: u64, connection: ExclusiveConnection<B>) {
        let mut endpoints = self.lock();
        if connection.generation >= endpoints.trusted()
            && let Some(endpoint) = endpoints.get(endpoint)
        {
            endpoint.take_back(connection);
        }
    }
}

impl<B: RequestBody> Observed for Connections<B> {
    fn endpoints(&self, now: Instant) -> Vec<EndpointStatus> {
        self.lock().status(now)
    }

    fn unresolved(&self) -> Option<String> {
        self.resolver.unresolved().map(|error| error.to_string())
    }
}

/// Drops connections as soon as the trust bundle changes, because rustls verifies a peer only once.
/// Drops those that are idle or old, and looks up names in use, from time to time.
pub(super) async fn upkeep<B: RequestBody>(
    connections: Weak<Connections<B>>,
    mut security: Security,
) {
    let mut ticks = interval(UPKEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let has_changed = tokio::select! {
            () = security.changed() => true,
            _ = ticks.tick() => false,
        };
        let Some(connections) = connections.upgrade() else {
            return;
        };
        if has_changed {
            connections.lock().renew();
        } else if connections.lock().sweep() {
            connections.resolver.refresh(connections.update());
        }
    }
}
