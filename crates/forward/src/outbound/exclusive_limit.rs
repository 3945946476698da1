//! The bound on exclusive connections of a process.
//!
//! A slow upload holds an exclusive connection for as long as it lasts, and an upstream takes a
//! limited number of connections. Over the bound the source with the most loses its oldest request to
//! a source with fewer ([`serve::shares`]). Other requests wait, and their sources are served in
//! rotation.

use std::{pin::pin, sync::Arc};

use common::{
    fair::{FairQueue, TooMany},
    reason::Reason,
    throttle::Episode,
};
use futures_util::FutureExt;
use serve::shares::{OnFull, Permit, Shares};
use tokio::time::{Instant, timeout_at};

use super::caller::Caller;

/// The bound on requests that have an exclusive connection. Clones share its counts.
#[derive(Clone, Debug)]
pub struct ExclusiveLimit {
    shares: Shares,
    max: usize,
    queue: Arc<FairQueue>,
}

/// The permit of a request for an exclusive connection. Calls the next request when it is dropped.
#[derive(Debug)]
pub(super) struct ExclusivePermit {
    held: Option<Permit>,
    queue: Arc<FairQueue>,
}

/// The most requests that may wait for a permit.
const MAX_QUEUED: usize = 2000;

impl ExclusiveLimit {
    /// Returns a bound of `max` requests at once.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let what = format!(
            "more requests than max-upstream-connections ({max}) need a connection for themselves: they wait, or end one of a source with more"
        );
        let over = "requests with a connection for themselves are within max-upstream-connections";
        let exceeded = Episode::refusing(Reason::Evicted, what, over);
        Self {
            shares: Shares::new(max, usize::MAX, OnFull::Refuse).logged_by(exceeded),
            max,
            queue: Arc::new(FairQueue::new(MAX_QUEUED)),
        }
    }

    /// Returns the number of requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Waits until a request of `caller` may have an exclusive connection.
    ///
    /// # Errors
    /// Fails when it may not before `deadline`, with the reason.
    pub(super) async fn permit(
        &self,
        caller: &Caller,
        deadline: Instant,
    ) -> Result<ExclusivePermit, String> {
        let share = self.shares.of(caller.source);
        loop {
            if let Ok(held) = share.enter(&caller.eviction) {
                return Ok(ExclusivePermit {
                    held: Some(held),
                    queue: Arc::clone(&self.queue),
                });
            }
            let mut waiting = pin!(self.queue.wait(caller.source, &|| ()));
            // The first poll enters the queue. A permit that another core returned before that has called
            // nobody, so its room is taken without a call.
            let called = match waiting.as_mut().now_or_never() {
                Some(called) => Ok(called),
                None if self.shares.count() < self.max => continue,
                None => timeout_at(deadline, waiting).await,
            };
            match called {
                Ok(Ok(())) => {}
                Ok(Err(TooMany(max))) => return Err(format!("and {max} requests wait for one")),
                Err(_) => return Err(format!("of which {} are for one request each", self.max)),
            }
        }
    }
}

/// Returns a limit without a bound.
impl Default for ExclusiveLimit {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl Drop for ExclusivePermit {
    fn drop(&mut self) {
        self.held = None;
        self.queue.call_next();
    }
}
