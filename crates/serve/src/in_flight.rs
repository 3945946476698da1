//! The in-flight limit: the bounds on requests that the process works on and on requests that wait for
//! their callers.
//!
//! A request that waits for its caller, to send more of a body or to read more of an answer, costs
//! memory but no work. It is counted separately, so that slow callers do not delay others. Over either
//! bound the source with the largest share loses first ([`crate::shares`]).

use std::{net::IpAddr, sync::Arc};

use common::{reason::Reason, throttle::Episode};

use crate::shares::{Eviction, OnFull, Permit, Share, Shares};

/// The in-flight limit of a process. Clones share the counts.
#[derive(Clone, Debug)]
pub(crate) struct InFlightLimit {
    working: Shares,
    waiting: Shares,
}

/// One source's part in the in-flight limit. A connection looks it up once.
#[derive(Debug)]
pub(crate) struct SourceLimit {
    working: Arc<Share>,
    waiting: Arc<Share>,
}

impl InFlightLimit {
    /// Returns a limit of `max` requests that the process works on, and of as many that wait for their
    /// callers.
    pub(crate) fn new(max: usize) -> Self {
        let what = format!("more requests in flight than max-requests ({max}): answering 503");
        let over = "requests in flight are within max-requests again";
        let exceeded = Episode::refusing(Reason::Overloaded, what, over);
        let shares =
            |on_full| Shares::new(max, usize::MAX, on_full).logged_by(Arc::clone(&exceeded));
        Self {
            working: shares(OnFull::Refuse),
            waiting: shares(OnFull::EvictOwnOldest),
        }
    }

    /// Returns the number of requests that the process works on, and of those that wait for their callers.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.working.count(), self.waiting.count())
    }

    pub(crate) fn of(&self, source: IpAddr) -> SourceLimit {
        SourceLimit {
            working: self.working.of(source),
            waiting: self.waiting.of(source),
        }
    }
}

impl SourceLimit {
    /// Admits a request, or returns `None` if it is one too many.
    pub(crate) fn begin(&self, eviction: &Arc<Eviction>) -> Option<Permit> {
        self.working.enter(eviction).ok()
    }

    /// Counts a request among those that wait for their callers. Returns `None` if it is one too many
    /// and no other source has more.
    pub(crate) fn wait(&self, eviction: &Arc<Eviction>) -> Option<Permit> {
        self.waiting.enter(eviction).ok()
    }

    /// Counts a request that waited among those that the process works on.
    pub(crate) fn resume(&self, eviction: &Arc<Eviction>) -> Permit {
        self.working.enter_again(eviction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_over_the_limit_is_refused_until_another_ends() {
        let source = InFlightLimit::new(2).of("192.0.2.1".parse().unwrap());
        let begin = || source.begin(&Arc::default());
        let (first, _second) = (begin().unwrap(), begin().unwrap());
        assert!(
            begin().is_none() && begin().is_none(),
            "a refusal is not counted"
        );
        drop(first);
        let _third = begin().unwrap();
        assert!(begin().is_none());
    }

    #[tokio::test]
    async fn a_request_that_waits_for_its_caller_makes_room_for_another() {
        let source = InFlightLimit::new(1).of("192.0.2.1".parse().unwrap());
        let (one, two) = (Arc::default(), Arc::default());
        drop(source.begin(&one).unwrap());
        let _waiting = source.wait(&one).unwrap();
        assert!(source.begin(&two).is_some());
        let _more = source.wait(&two).unwrap();
        assert!(futures_util::FutureExt::now_or_never(one.evicted()).is_some());
    }
}
