//! Names to endpoints: when a connection is opened, and from time to time while there are any.

use std::{collections::HashMap, io, pin::pin, sync::Arc, time::Duration};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, join_all},
};
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::{
    Error, RequestBody,
    origin::{At, Origin},
    pool::Pool,
    state::State,
};

/// How long an answer is good for at least, whatever fails.
const GOOD_FOR: Duration = Duration::from_secs(2);

/// How long a look-up may take; another follows.
const PATIENCE: Duration = Duration::from_secs(10);

/// An endpoint that answers lack is kept for this long, and until this many answers in a row lacked
/// it: many resolvers answer with a part of the addresses, each time another.
pub(super) const GRACE: Duration = Duration::from_secs(30);
const MIN_ANSWERS: u32 = 2;

/// What is known of the names of a target.
#[derive(Default)]
pub(super) struct Resolution {
    pub(super) missing: Missing,
    resolving: Option<Shared<BoxFuture<'static, ()>>>,
    resolved: Option<Instant>,
    /// Why there may be no endpoint.
    error: Option<Error>,
}

/// Endpoints that the last answers lacked, by their id. An endpoint is here until an answer has it
/// again, or it is dropped.
#[derive(Default)]
pub(super) struct Missing(HashMap<u64, Lacking>);

/// The answers in a row that lacked an endpoint.
struct Lacking {
    since: Instant,
    answers: u32,
}

impl Missing {
    /// Takes note of an answer that has an endpoint.
    pub(super) fn found(&mut self, endpoint: u64) {
        self.0.remove(&endpoint);
    }

    /// Takes note of an answer that lacks an endpoint. Returns whether the endpoint is still kept.
    pub(super) fn keeps(&mut self, endpoint: u64, now: Instant) -> bool {
        let lacking = self.0.entry(endpoint).or_insert(Lacking {
            since: now,
            answers: 0,
        });
        lacking.answers += 1;
        let is_kept = lacking.answers < MIN_ANSWERS || now < lacking.since + GRACE;
        if !is_kept {
            self.0.remove(&endpoint);
        }
        is_kept
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<B: RequestBody> Pool<B> {
    /// Resolves the names anew, beside the requests.
    pub(super) fn resolve_again(self: &Arc<Self>, state: &mut State<B>) {
        let resolved = state.resolution.resolved;
        let is_recent = resolved.is_some_and(|resolved| resolved.elapsed() < GOOD_FOR);
        if !is_recent && self.origins.iter().any(|origin| origin.literal().is_none()) {
            let _runs_by_itself = self.resolving(state);
        }
    }

    /// Waits for the first endpoint to be known.
    pub(super) async fn resolved(self: &Arc<Self>) -> Result<(), Error> {
        let resolving = {
            let mut state = self.lock();
            if !state.endpoints.is_empty() {
                return Ok(());
            }
            self.resolving(&mut state)
        };
        let mut resolving = pin!(resolving);
        loop {
            let found = self.found.notified();
            if !self.lock().endpoints.is_empty() {
                return Ok(());
            }
            tokio::select! {
                () = resolving.as_mut() => break,
                () = found => {}
            }
        }
        let state = self.lock();
        match &state.resolution.error {
            Some(error) if state.endpoints.is_empty() => Err(error.clone()),
            _ => Ok(()),
        }
    }

    fn resolving(self: &Arc<Self>, state: &mut State<B>) -> Shared<BoxFuture<'static, ()>> {
        if let Some(resolving) = &state.resolution.resolving {
            return resolving.clone();
        }
        let resolving = Arc::clone(self).resolve_all().boxed().shared();
        tokio::spawn(resolving.clone());
        state.resolution.resolving = Some(resolving.clone());
        resolving
    }

    /// All names at once: one whose server does not answer holds up no other.
    async fn resolve_all(self: Arc<Self>) {
        let names = self.origins.iter().filter(|one| one.literal().is_none());
        join_all(names.map(|origin| self.resolve_one(origin))).await;
        let mut state = self.lock();
        state.resolution.resolving = None;
        state.resolution.resolved = Some(Instant::now());
    }

    /// A name that can't be resolved keeps the endpoints that it had.
    async fn resolve_one(&self, origin: &Arc<Origin>) {
        let found = timeout(PATIENCE, origin.resolve()).await;
        let found = found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let mut state = self.lock();
        match found {
            Ok(found) => state.set_endpoints(origin, found),
            Err(error) => {
                debug!(%error, "cannot resolve {}", origin.url);
                let at = At::new(&origin.url, &[]);
                let error = Error::unresolved(&error, at, self.expected.clone());
                state.resolution.error = Some(error);
            }
        }
        drop(state);
        self.found.notify_waiters();
    }
}
