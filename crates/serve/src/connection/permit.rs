//! The permit of a request under the in-flight limit.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
};

use common::lock::lock;

use crate::{
    in_flight::SourceLimit,
    shares::{Eviction, Permit},
};

/// The permit of a request in flight. It is counted among the requests that the process works on, or
/// among those that wait for their callers.
#[derive(Debug)]
pub(super) struct InFlightPermit {
    eviction: Arc<Eviction>,
    is_admitted: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    held: Option<Permit>,
    is_over: bool,
    waits_for_body: bool,
    waits_for_reader: bool,
}

impl InFlightPermit {
    /// Returns the permit of a new request, which is admitted if `limit` has room for it.
    pub(super) fn new(limit: &SourceLimit) -> Arc<Self> {
        let eviction = Arc::default();
        let held = limit.begin(&eviction);
        Arc::new(Self {
            eviction,
            is_admitted: held.is_some(),
            state: Mutex::new(State {
                is_over: held.is_none(),
                held,
                waits_for_body: false,
                waits_for_reader: false,
            }),
        })
    }

    pub(super) fn is_admitted(&self) -> bool {
        self.is_admitted
    }

    /// Notes whether the request waits for its caller to send more of the body.
    pub(super) fn waits_for_body(&self, limit: &SourceLimit, waits: bool) {
        self.change(limit, |state| state.waits_for_body = waits);
    }

    /// Notes whether the request waits for its caller to read more of the answer.
    pub(super) fn waits_for_reader(&self, limit: &SourceLimit, waits: bool) {
        self.change(limit, |state| state.waits_for_reader = waits);
    }

    /// Returns the permit to the limit.
    pub(super) fn release(&self) {
        let mut state = self.lock();
        state.is_over = true;
        state.held = None;
    }

    /// Returns the eviction that tells the request to make room for another.
    pub(super) fn eviction(&self) -> &Arc<Eviction> {
        &self.eviction
    }

    /// Waits until the request has to make room for another.
    pub(super) async fn evicted(&self) {
        self.eviction.evicted().await;
    }

    pub(super) fn poll_evicted(&self, cx: &Context<'_>) -> Poll<()> {
        self.eviction.poll_evicted(cx)
    }

    fn change(&self, limit: &SourceLimit, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        let before = state.waits();
        change(&mut state);
        let after = state.waits();
        if before == after || state.is_over {
            return;
        }
        // The old count is released before the new one is taken, so that a request is never counted
        // twice.
        state.held = None;
        state.held = if after {
            limit.wait(&self.eviction)
        } else {
            Some(limit.resume(&self.eviction))
        };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn waits(&self) -> bool {
        self.waits_for_body || self.waits_for_reader
    }
}
