//! The pool of one core's upstream connections. It gives each request a connection. Requests wait in
//! a fair queue while all connections are full.
//!
//! A request goes over a connection that is open, to the one of two endpoints with fewer requests in
//! flight. It waits for a new connection only where there is none. Endpoints without a connection are
//! tried apart from the requests, so that an endpoint that is down delays no request.
//!
//! Connections are verified when they are opened and never again. They are therefore dropped after a
//! change of the trust bundle, even if no request comes ([`upkeep`](super::connections::upkeep)).
//!
//! # Alternatives
//!
//! `hyper_util::client::legacy` is the pool that a library offers. It keeps one HTTP/2 connection for a
//! host, and so for all of its addresses. It does not tell over which connection or to which address a
//! request went, and it can't drop the connections of an old trust bundle. `hyper_util`'s composable
//! pools (0.1.20) have one HTTP/2 connection too, and no health of endpoints. Neither lets requests
//! wait by source when the peer's stream limit is reached.
//!
//! # Measurement
//!
//! The pool exists for these rules, and costs no more than the library's. A program sent requests without
//! TLS to one server: through [`Client`](super::Client), through the library's client, and over a connection
//! of hyper without a pool. These are its instructions per request (callgrind, as `scripts/bench.sh --check`
//! counts):
//!
//! | requests at once | no pool | the library's | ours |
//! |---|---|---|---|
//! | HTTP/1.1, 1 | 14,957 | 24,274 | 24,973 |
//! | HTTP/1.1, 8 | 13,692 | 23,045 | 23,307 |
//! | HTTP/2, 1 | 28,363 | 35,243 | 31,513 |
//! | HTTP/2, 8 | 27,238 | 30,000 | 26,905 |
//!
//! Ours uses the `h2` crate directly ([`serve::http2`]), so that it takes less than hyper with HTTP/2.

use std::{
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{
    fair::{FairQueue, TooMany},
    lock::lock,
};
use serve::shares::{OnFull, Shares};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    caller::Caller,
    checkout::Checkout,
    connection::Connection,
    connections::{Connections, upkeep},
    counts::Counts,
    endpoints::Failed,
    error::Error,
    exclusive_limit::{ExclusiveLimit, ExclusivePermit},
    prepared::{Need, RequestBody},
    race::Race,
    security::Security,
    upstream::Upstream,
};

/// The requests of one core that may wait for room on a connection.
const MAX_QUEUED: usize = 2000;

/// The pause between two searches for room by requests that wait.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The time after which a request that waits gets room from the source that holds the most.
const EVICT_AFTER: Duration = Duration::from_millis(400);

/// Gives connections to requests.
pub(super) struct Pool<B> {
    connections: Arc<Connections<B>>,
    /// Requests that wait for room on a connection, source by source.
    room: Arc<FairQueue>,
    /// Requests on shared connections, by source.
    holders: Shares,
    exclusive: ExclusiveLimit,
    counts: Arc<Counts>,
    /// The time of the last search for room.
    looked: Mutex<Instant>,
    queue_timeout: Duration,
}

impl<B: RequestBody> Pool<B> {
    pub(super) fn new(upstream: &Upstream, security: Security) -> Self {
        let room = Arc::new(FairQueue::new(MAX_QUEUED));
        Self {
            connections: Connections::new(upstream, security, &room),
            room,
            holders: Shares::new(usize::MAX, usize::MAX, OnFull::Refuse),
            exclusive: upstream.exclusive().clone(),
            counts: Arc::clone(upstream.counts()),
            looked: Mutex::new(Instant::now()),
            queue_timeout: upstream.timeouts.queue,
        }
    }

    /// Returns the task that drops connections when it is time, and ends with the pool.
    pub(super) fn upkeep(&self, security: Security) -> impl Future<Output = ()> + use<B> {
        upkeep(Arc::downgrade(&self.connections), security)
    }

    /// Checks a connection out for a request. While all that there may be are full, sources are served
    /// in rotation.
    ///
    /// The second attempt of a request gets another connection than the one that `failed`. It gets none
    /// that was open at the time of the failure either, because that may have been closed too.
    pub(super) async fn checkout(
        &self,
        need: Need,
        caller: &Caller,
        failed: Option<&Failed>,
    ) -> Result<Checkout<B>, Error> {
        let begun = Instant::now();
        // A request that comes while others wait is not served before them.
        let mut may_take = need.is_exclusive() || self.room.is_empty();
        loop {
            if !may_take {
                self.wait_for_room(need, caller, begun).await?;
            }
            match self.take_or_connect(need, caller, failed, begun).await {
                Ok(Some(connection)) => {
                    self.connections.call_next_if_there_is_room();
                    return Ok(Checkout::new(&self.connections, connection));
                }
                Ok(None) => may_take = false,
                Err(error) => {
                    self.room.call_next();
                    return Err(error);
                }
            }
        }
    }

    async fn take_or_connect(
        &self,
        need: Need,
        caller: &Caller,
        failed: Option<&Failed>,
        begun: Instant,
    ) -> Result<Option<Connection<B>>, Error> {
        let mut permit = if need.is_exclusive() {
            Some(self.permit(caller, begun).await?)
        } else {
            None
        };
        let mut taken = self.connections.take(need, failed);
        if taken.is_none() && permit.is_none() && self.connections.lock().opens_exclusive(need) {
            permit = Some(self.permit(caller, begun).await?);
            taken = self.connections.take(need, failed);
        }
        if taken.is_none() {
            // It is boxed because it is large and rare.
            taken = Box::pin(self.connect(need, failed)).await?;
        }
        let Some(mut connection) = taken else {
            return Ok(None);
        };
        if connection.is_shared() {
            connection.counted.count_for(&self.holders, caller);
        } else {
            let permit = match permit {
                Some(permit) => permit,
                None => self.permit(caller, begun).await?,
            };
            connection.counted.keep(permit);
        }
        Ok(Some(connection))
    }

    /// Waits until a request that began to wait at `begun` may have an exclusive connection.
    async fn permit(&self, caller: &Caller, begun: Instant) -> Result<ExclusivePermit, Error> {
        let permit = self.exclusive.permit(caller, begun + self.queue_timeout);
        let full = |why| Error::Full(self.connections.at_first_of(&[]), why);
        permit.await.map_err(full)
    }

    /// Opens a connection for a request. Returns `None` if all are full and there may be no more.
    async fn connect(
        &self,
        need: Need,
        failed: Option<&Failed>,
    ) -> Result<Option<Connection<B>>, Error> {
        let mut race = Race::new(&self.connections, need, failed);
        let connected = timeout(self.connections.connect_timeout(), race.run()).await;
        connected.unwrap_or_else(|_| Err(race.timed_out()))
    }

    /// Waits until the queue calls a request that began to wait at `begun`. A source that has waited
    /// for long gets room from the one that holds the most.
    async fn wait_for_room(
        &self,
        need: Need,
        caller: &Caller,
        begun: Instant,
    ) -> Result<(), Error> {
        let full = |why| Err(Error::Full(self.connections.at_first_of(&[]), why));
        let deadline = begun + self.queue_timeout;
        let _waiting = self.counts.waiting.count();
        let mut called = pin!(self.room.wait(caller.source, &|| ()));
        loop {
            let now = Instant::now();
            if now >= deadline {
                let timeout = humantime::format_duration(self.queue_timeout);
                return full(format!("within {timeout}"));
            }
            if now >= begun + EVICT_AFTER {
                self.holders.evict_for(caller.source);
            }
            match timeout_at(deadline.min(now + LOOK_EVERY), called.as_mut()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(TooMany(max))) => {
                    return full(format!("and {max} requests wait for it on this core"));
                }
                // No event says that a peer takes more requests or has closed a connection.
                Err(_) => self.call_next_if_there_may_be_room(need),
            }
        }
    }

    /// Calls the next request if there may be room for it. Searches only once in each [`LOOK_EVERY`],
    /// because a request that is called in vain enters the queue again at its end.
    fn call_next_if_there_may_be_room(&self, need: Need) {
        let now = Instant::now();
        let mut looked = lock(&self.looked);
        if now >= *looked + LOOK_EVERY {
            *looked = now;
            if self.connections.lock().may_have_room(need) {
                self.room.call_next();
            }
        }
    }
}
