//! How many requests at once. Over it a request is refused at once instead of queued: whoever sent it
//! can still go elsewhere, and those before it are answered in time.
//!
//! Connections are bounded by [`super::admission`]; but each may have many requests (HTTP/2).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use crate::telemetry::Episode;

/// The requests of a process that are in flight, shared by its cores.
#[derive(Clone, Debug)]
pub struct Load(Arc<Shared>);

/// Of a cache line of its own: all cores count here, with each request.
#[derive(Debug)]
#[repr(align(128))]
struct Shared {
    in_flight: AtomicUsize,
    max: usize,
    refused: Arc<Episode>,
}

impl Load {
    /// At most `max` requests at once.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let what =
            format!("more requests at once than --max-requests allows ({max}): answering 503");
        Self(Arc::new(Shared {
            in_flight: AtomicUsize::new(0),
            max,
            refused: Episode::new(what, "no more requests at once than --max-requests allows"),
        }))
    }

    /// Counts one more request, until [`Self::leave`]; or says that it is one too many.
    pub(super) fn enter(&self) -> bool {
        let admitted = self.0.in_flight.fetch_add(1, Relaxed) < self.0.max;
        if !admitted {
            self.leave();
            self.0.refused.note();
        }
        admitted
    }

    /// A request that was admitted is over.
    pub(super) fn leave(&self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_too_many_is_refused_and_the_next_admitted_when_one_is_over() {
        let load = Load::new(2);
        assert!(load.enter() && load.enter());
        assert!(!load.enter() && !load.enter(), "a refusal takes no place");
        load.leave();
        assert!(load.enter());
        assert!(!load.enter());
    }
}
