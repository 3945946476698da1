//! The wait for the next token, for a task that passes each one on.

use std::{sync::Arc, time::Duration};

use spiffe::JwtSvid;
use tokio::time::{Instant, sleep};

use super::{Shared, State, TokenSource};
use crate::workload::Error;

/// The longest time between two looks at the wall clock, which may be set, or go on while the machine
/// sleeps.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The change that [`TokenSource::next`] waits for.
#[derive(Clone, Debug)]
pub enum Next {
    /// Another token is the current one.
    Issued(Arc<JwtSvid>),
    /// The token may no longer be used, and there is no other. The error is that of the last fetch,
    /// unless the next one is under way.
    Lost(Option<Arc<Error>>),
}

impl TokenSource {
    /// Waits until a token other than `held` is the current one, or until `held` may no longer be used.
    /// Without `held`, it waits for a token for as long as it takes.
    ///
    /// If the future is dropped, the next call does not miss a change.
    pub async fn next(&self, held: Option<&JwtSvid>) -> Next {
        let mut state = self.shared.state.subscribe();
        loop {
            let (next, left) = {
                let state = state.borrow_and_update();
                (state.next(held, &self.shared), state.left(&self.shared))
            };
            if let Some(next) = next {
                return next;
            }
            if state.borrow().result(&self.shared).is_none() {
                self.shared.wanted.notify_one();
            }
            tokio::select! {
                // There is no error, because `self` holds the sender.
                _ = state.changed() => {}
                () = sleep(left.map_or(LOOK_EVERY, |left| left.min(LOOK_EVERY))) => {}
            }
        }
    }
}

impl State {
    /// Returns the change since `held` was the current token, or `None` if there is none.
    fn next(&self, held: Option<&JwtSvid>, shared: &Shared) -> Option<Next> {
        let usable = self
            .current
            .as_ref()
            .filter(|current| shared.is_usable(&current.lifetime));
        match (usable, held) {
            (Some(current), Some(held)) if current.svid.token() == held.token() => None,
            (Some(current), _) => Some(Next::Issued(Arc::clone(&current.svid))),
            (None, Some(_)) => Some(Next::Lost(self.failure.clone())),
            (None, None) => None,
        }
    }

    /// Returns how long the current token may still be used, if it may.
    fn left(&self, shared: &Shared) -> Option<Duration> {
        let lifetime = self.current.as_ref()?.lifetime;
        let left = lifetime.left((shared.clock)(), Instant::now());
        (!left.is_zero()).then_some(left)
    }
}
