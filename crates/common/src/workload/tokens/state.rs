//! The state of a token source, which its task writes and all others read.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use spiffe::JwtSvid;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::lifetime::Lifetime;
use crate::{count::Counter, workload::Error};

/// The state of a source, its clock and its counts.
pub(super) struct Shared {
    pub(super) state: watch::Sender<State>,
    /// Wakes the task when a call waits for a token before the next fetch is due.
    pub(super) wanted: Notify,
    pub(super) clock: Box<dyn Fn() -> SystemTime + Send + Sync>,
    pub(super) fetched: Counter,
    pub(super) failed: Counter,
}

/// The current token and the last failure.
#[derive(Default)]
pub(super) struct State {
    pub(super) current: Option<Current>,
    /// The error of the last fetch, until the next one begins.
    pub(super) failure: Option<Arc<Error>>,
}

/// A token that came.
pub(super) struct Current {
    pub(super) svid: Arc<JwtSvid>,
    /// The time at which it came.
    pub(super) since: SystemTime,
    pub(super) lifetime: Lifetime,
    /// True if a server has refused it.
    pub(super) refused: bool,
}

impl Shared {
    pub(super) fn is_usable(&self, lifetime: &Lifetime) -> bool {
        lifetime.includes((self.clock)(), Instant::now())
    }

    pub(super) fn is_refused(&self) -> bool {
        let state = self.state.borrow();
        state
            .current
            .as_ref()
            .is_some_and(|current| current.refused)
    }
}

impl State {
    /// Returns the result of [`TokenSource::token`](super::TokenSource::token) now, or `None` if it has to wait.
    pub(super) fn result(&self, shared: &Shared) -> Option<Result<Arc<JwtSvid>, Arc<Error>>> {
        let usable = self
            .current
            .as_ref()
            .filter(|current| shared.is_usable(&current.lifetime));
        match (usable, &self.failure) {
            (Some(current), failure) if !current.refused || failure.is_some() => {
                Some(Ok(Arc::clone(&current.svid)))
            }
            (None, Some(failure)) => Some(Err(Arc::clone(failure))),
            _ => None,
        }
    }

    /// Returns how long the current token may still be used, if it may.
    pub(super) fn left(&self, shared: &Shared) -> Option<Duration> {
        let lifetime = self.current.as_ref()?.lifetime;
        let left = lifetime.left((shared.clock)(), Instant::now());
        (!left.is_zero()).then_some(left)
    }
}
