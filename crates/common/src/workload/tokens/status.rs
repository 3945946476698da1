//! The state of a token source for people and probes.

use std::{
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use spiffe::SpiffeId;
use tokio::time::Instant;

use super::state::Shared;

/// Reads the state of a [`TokenSource`](super::TokenSource) for as long as that exists.
#[derive(Clone)]
pub struct TokenMonitor(Weak<Shared>);

/// The state of a token source. It has no token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenStatus {
    /// The subject of the current token, if there is one.
    pub id: Option<SpiffeId>,
    /// The time for which the current token may still be sent.
    pub left: Duration,
    /// True if a server has refused the current token.
    pub is_refused: bool,
    /// The error of the last fetch, unless another one is under way.
    pub failure: Option<String>,
    /// The fetches that succeeded.
    pub fetched: u64,
    /// The fetches that failed.
    pub failed: u64,
    /// The time when the current token came, and its `exp`, if there is one.
    pub times: Option<(SystemTime, SystemTime)>,
}

impl TokenMonitor {
    pub(super) fn of(shared: &Arc<Shared>) -> Self {
        Self(Arc::downgrade(shared))
    }

    /// Returns the present state, or `None` if the source is gone.
    #[must_use]
    pub fn status(&self) -> Option<TokenStatus> {
        let shared = self.0.upgrade()?;
        let now = (shared.clock)();
        let state = shared.state.borrow();
        let current = state.current.as_ref();
        let left = current.map(|current| current.lifetime.left(now, Instant::now()));
        Some(TokenStatus {
            id: current.map(|current| current.svid.spiffe_id().clone()),
            left: left.unwrap_or_default(),
            is_refused: current.is_some_and(|current| current.refused),
            failure: state.failure.as_ref().map(ToString::to_string),
            fetched: shared.fetched.read(),
            failed: shared.failed.read(),
            times: current.map(|current| (current.since, current.svid.expiry().into())),
        })
    }
}

impl std::fmt::Debug for TokenMonitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TokenMonitor").field(&self.status()).finish()
    }
}
