//! A shared connection: HTTP/2, with the requests of many callers at once.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use common::lock::lock;
use serve::http2::RoundTrip;
use tokio::time::Instant;

use super::{
    age::Age,
    generation::Generation,
    http2::{self, Sender},
    in_flight::InFlight,
};

/// An HTTP/2 connection that requests share.
pub(super) struct SharedConnection {
    pub(super) generation: Generation,
    pub(super) in_flight: Arc<InFlight>,
    round_trip: Arc<RoundTrip>,
    state: Mutex<State>,
}

struct State {
    sender: Sender,
    age: Age,
}

impl SharedConnection {
    /// Takes in a connection that was just opened to the endpoint whose counts are `endpoint`.
    pub(super) fn new(
        generation: Generation,
        sender: Sender,
        round_trip: Arc<RoundTrip>,
        age: Age,
        endpoint: &Arc<InFlight>,
    ) -> Arc<Self> {
        Arc::new(Self {
            generation,
            in_flight: InFlight::of_connection(endpoint),
            round_trip,
            state: Mutex::new(State { sender, age }),
        })
    }

    /// Returns whether the connection can take requests, and notes that one uses it.
    pub(super) fn touch(&self, now: Instant) -> bool {
        let mut state = self.lock();
        state.age.touch(now);
        !state.age.is_expired(now) && !self.in_flight.is_spent() && state.is_open()
    }

    /// Returns whether the connection is worth keeping.
    pub(super) fn is_kept(&self, now: Instant) -> bool {
        let mut state = self.lock();
        let is_quiet = self.in_flight.requests() == 0 && state.age.is_idle(now);
        let is_done = state.age.is_expired(now) || self.in_flight.is_spent();
        !is_done && state.is_open() && !is_quiet
    }

    /// Returns whether neither an end nor a GOAWAY has come.
    pub(super) fn is_open(&self) -> bool {
        self.lock().is_open()
    }

    /// Returns a sender for one more request.
    pub(super) fn sender(&self) -> Sender {
        self.lock().sender.clone()
    }

    /// Returns the round trip to the peer, once it was measured.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.round_trip.get()
    }

    /// Returns the number of requests that the peer takes at once at present.
    pub(super) fn max_requests(&self) -> usize {
        self.lock().sender.current_max_send_streams()
    }

    /// Returns whether there is room for one more request with a body of `body_bytes`.
    pub(super) fn has_room_for(&self, body_bytes: usize) -> bool {
        self.in_flight.requests() < self.max_requests() && self.takes_body(body_bytes)
    }

    /// Returns whether there is room for a body of `body_bytes`.
    pub(super) fn takes_body(&self, body_bytes: usize) -> bool {
        self.in_flight.has_room_for(body_bytes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn is_open(&mut self) -> bool {
        http2::is_open(&mut self.sender)
    }
}
