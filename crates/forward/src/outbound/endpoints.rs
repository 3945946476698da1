//! The endpoints of an upstream as one core sees them, and the choice of one for a request.
//!
//! - A request first takes a connection that is there (`take`). `choose_ready` finds an endpoint that has one, and
//!   [`Endpoint::take`] the connection: a shared one if the request may share, and otherwise an idle one.
//! - If none has room, `choose_to_open` finds the endpoint that a connection is opened to.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use common::fair::FairQueue;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::{
    age::Age,
    choice::least_of_two,
    connection::{Connection, Opened},
    connector::Offer,
    counts::Counts,
    endpoint::Endpoint,
    error::Error,
    generation::Generation,
    origin::Location,
    prepared::{Need, RequestBody, Speech},
    shared::SharedConnection,
    status::EndpointStatus,
};

/// All endpoints of an upstream.
pub(super) struct Endpoints<B> {
    all: Vec<Endpoint<B>>,
    /// The generation of new connections.
    generation: Generation,
    /// The first generation that was verified with the present trust bundle.
    trusted: Generation,
    /// The time at which there may be an endpoint to try apart from the requests.
    look: Option<Instant>,
    /// Requests that wait for room on a connection.
    room: Arc<FairQueue>,
    counts: Arc<Counts>,
}

/// A failed request, for the choice of the connection of its second attempt.
#[derive(Clone, Copy)]
pub(super) struct Failed {
    pub(super) endpoint: u64,
    /// Connections of this generation were opened after the failure.
    pub(super) since: Generation,
}

/// An endpoint to open a connection to.
pub(super) struct Candidate {
    pub(super) index: usize,
    pub(super) id: u64,
    pub(super) offer: Offer,
    pub(super) is_ejected: bool,
}

impl<B: RequestBody> Endpoints<B> {
    /// Begins with the endpoints at `locations`.
    pub(super) fn new(
        locations: &[Arc<Location>],
        room: &Arc<FairQueue>,
        counts: &Arc<Counts>,
    ) -> Self {
        let mut endpoints = Self {
            all: Vec::new(),
            generation: Generation::default(),
            trusted: Generation::default(),
            look: None,
            room: Arc::clone(room),
            counts: Arc::clone(counts),
        };
        endpoints.update(locations);
        endpoints
    }

    /// Adds endpoints at new locations and drops those at locations that are gone. Dropped connections
    /// end with the requests on them.
    pub(super) fn update(&mut self, locations: &[Arc<Location>]) {
        let is_there = |one: &Endpoint<B>| locations.iter().any(|known| known.id == one.id());
        self.all.retain(is_there);
        for location in locations {
            if self.get(location.id).is_none() {
                self.all.push(Endpoint::new(location, &self.room));
            }
        }
        self.look_at(Instant::now());
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// Returns the state of each endpoint.
    pub(super) fn status(&mut self, now: Instant) -> Vec<EndpointStatus> {
        let several = self.all.len() > 1;
        let all = self.all.iter_mut();
        all.map(|one| one.status(several, now)).collect()
    }

    /// Returns an endpoint that is still there.
    pub(super) fn get(&mut self, id: u64) -> Option<&mut Endpoint<B>> {
        self.all.iter_mut().find(|one| one.id() == id)
    }

    /// Returns the endpoint that was chosen.
    pub(super) fn at_index(&mut self, index: usize) -> &mut Endpoint<B> {
        &mut self.all[index]
    }

    /// Returns whether an endpoint speaks what a request needs, as far as is known.
    pub(super) fn speak(&self, speech: Speech) -> bool {
        self.all.iter().any(|one| one.speaks(speech))
    }

    /// Returns whether there are shared connections, with or without room.
    pub(super) fn has_shared(&self) -> bool {
        self.all.iter().any(Endpoint::has_shared)
    }

    /// Returns whether a request would find a connection, or may have a new one. Drops connections that
    /// are found closed.
    pub(super) fn may_have_room(&mut self, need: Need) -> bool {
        self.all.iter_mut().for_each(Endpoint::discard_closed);
        let may_open = |candidate: Candidate| !candidate.is_ejected;
        self.choose_ready(need, None).is_some()
            || self.choose_to_open(need, None, &[]).is_some_and(may_open)
    }

    /// Returns whether a new connection for a request would be exclusive, as far as is known.
    pub(super) fn opens_exclusive(&self, need: Need) -> bool {
        !self.all.is_empty() && self.all.iter().all(|one| one.opens_exclusive(need))
    }

    /// Returns whether a request without a body would find a connection.
    pub(super) fn has_room(&self) -> bool {
        self.choose_ready(Need::SMALL, None).is_some()
    }

    /// Returns the first generation that was verified with the present trust bundle.
    pub(super) fn trusted(&self) -> Generation {
        self.trusted
    }

    /// Takes a connection for one more request, and the index of its endpoint. Drops those that are
    /// found closed.
    pub(super) fn take(
        &mut self,
        need: Need,
        failed: Option<&Failed>,
        now: Instant,
    ) -> Option<(usize, Connection<B>)> {
        while let Some(index) = self.choose_ready(need, failed) {
            let endpoint = &mut self.all[index];
            if let Some(connection) = endpoint.take(need, since(failed, endpoint), now) {
                return Some((index, connection));
            }
            self.look_at(now);
        }
        self.all.iter_mut().for_each(Endpoint::discard_closed);
        None
    }

    /// Chooses an endpoint with a connection for one more request. The second attempt of one that
    /// `failed` goes to another endpoint, if there is one.
    fn choose_ready(&self, need: Need, failed: Option<&Failed>) -> Option<usize> {
        let is_ready = |one: &Endpoint<B>| one.has_room(need, since(failed, one));
        self.least_loaded(|one| is_other(failed, one) && is_ready(one))
            .or_else(|| failed.and_then(|_| self.least_loaded(is_ready)))
    }

    /// Chooses the endpoint to open a connection to, except those `tried`. An ejected one is chosen if
    /// there is no other. The one that failed first is chosen among several.
    pub(super) fn choose_to_open(
        &self,
        need: Need,
        failed: Option<&Failed>,
        tried: &[u64],
    ) -> Option<Candidate> {
        let now = Instant::now();
        let may_open = |one: &Endpoint<B>| !tried.contains(&one.id()) && one.may_open(need);
        let is_well = |one: &Endpoint<B>| may_open(one) && one.health.ejected(now).is_none();
        let index = self
            .least_loaded(|one| is_well(one) && is_other(failed, one))
            .or_else(|| self.least_loaded(is_well));
        let is_ejected = index.is_none();
        let index = index.or_else(|| self.failed_first(may_open))?;
        let endpoint = &self.all[index];
        Some(Candidate {
            index,
            id: endpoint.id(),
            offer: endpoint.offer(need),
            is_ejected,
        })
    }

    fn failed_first(&self, may_be: impl Fn(&Endpoint<B>) -> bool) -> Option<usize> {
        let endpoints = self.all.iter().enumerate();
        endpoints
            .filter(|(_, endpoint)| may_be(endpoint))
            .min_by_key(|(_, endpoint)| endpoint.health.failed())
            .map(|(index, _)| index)
    }

    fn least_loaded(&self, may_be: impl Fn(&Endpoint<B>) -> bool) -> Option<usize> {
        let load = |index: usize| {
            let endpoint = &self.all[index];
            may_be(endpoint).then(|| endpoint.in_flight.requests())
        };
        least_of_two(self.all.len(), load, |below| fastrand::usize(..below))
    }

    /// Returns the endpoints without a connection that may be tried now, at most once for each time that
    /// [`Self::look_at`] set.
    pub(super) fn unconnected(&mut self, now: Instant) -> Vec<usize> {
        if self.look.is_none_or(|look| look > now) {
            return Vec::new();
        }
        let ejected = |endpoint: &Endpoint<B>| endpoint.health.ejected(now);
        self.look = self.all.iter().filter_map(ejected).min();
        let endpoints = self.all.iter().enumerate();
        endpoints
            .filter(|(_, one)| one.is_unconnected() && ejected(one).is_none())
            .map(|(index, _)| index)
            .collect()
    }

    /// Takes note that there may be an endpoint to try at `then`. Requests themselves try a single one.
    fn look_at(&mut self, then: Instant) {
        if self.all.len() > 1 {
            self.look = Some(self.look.map_or(then, |look| look.min(then)));
        }
    }

    /// Takes note of the outcome of opening a connection to an endpoint.
    pub(super) fn settle(
        &mut self,
        id: u64,
        offer: Offer,
        opened: Result<(Opened<B>, Age), Error>,
    ) -> Result<(), Error> {
        let generation = self.generation;
        if let Ok((opened, _)) = &opened {
            self.counts.opened(opened);
        }
        // The endpoint may be gone by now, and then its connection is dropped.
        let Some(endpoint) = self.get(id) else {
            return Ok(());
        };
        if offer == Offer::Both {
            endpoint.opening = None;
        }
        match opened {
            Ok(opened) => endpoint.add(generation, opened, offer),
            Err(error) => {
                self.eject(id, &error);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Begins a new generation of connections after a failure on `endpoint`.
    pub(super) fn fail(&mut self, endpoint: u64) -> Failed {
        Failed {
            endpoint,
            since: self.generation.advance(),
        }
    }

    /// Ejects an endpoint for a while, which matters once it has no connection. Logs the first failure
    /// if no request has to fail because of it.
    fn eject(&mut self, id: u64, reason: &Error) {
        let (now, several) = (Instant::now(), self.all.len() > 1);
        // The endpoint did not fail, because there was no identity of our own, or no bundle to verify
        // it with.
        if matches!(reason, Error::NoTrust(_) | Error::NoBundle { .. }) {
            return;
        }
        let Some(endpoint) = self.get(id) else {
            return;
        };
        let answers = endpoint.in_flight.answers();
        let pause = endpoint.health.note_failure(now, answers, fastrand::f64());
        endpoint.failure = Some(reason.to_string());
        let has_alternative = several || endpoint.has_connection();
        let is_news = has_alternative && endpoint.health.is_first_failure();
        match reason {
            Error::Impostor { .. } if is_news => error!("ejected: {reason}"),
            _ if is_news => warn!("ejected for now: {reason}"),
            _ => debug!("ejected for {pause:?}: {reason}"),
        }
        self.counts.ejections.add(1);
        self.look_at(now + pause);
    }

    /// Drops all connections of an endpoint that gave no answer in time, and ejects it.
    pub(super) fn eject_silent(&mut self, id: u64, reason: &Error) {
        if let Some(endpoint) = self.get(id) {
            endpoint.discard_all();
            self.eject(id, reason);
        }
    }

    /// Drops one shared connection of an endpoint.
    pub(super) fn discard(&mut self, id: u64, shared: &Arc<SharedConnection>) {
        if let Some(endpoint) = self.get(id) {
            endpoint.discard(shared);
        }
    }

    /// Drops all connections and forgets failures, because the trust bundle has changed.
    pub(super) fn renew(&mut self) {
        self.trusted = self.generation.advance();
        for endpoint in &mut self.all {
            endpoint.discard_all();
            endpoint.health = Default::default();
        }
        self.look_at(Instant::now());
    }

    /// Drops connections that are idle or old. Returns whether there are others.
    pub(super) fn sweep(&mut self) -> bool {
        let now = Instant::now();
        for endpoint in &mut self.all {
            endpoint.sweep(now);
        }
        self.look_at(now);
        self.all.iter().any(|one| !one.is_unconnected())
    }
}

/// Returns the first generation that may serve a request. The event that closed the connection of a
/// failed attempt may have closed its endpoint's others, and any idle one over HTTP/1.1.
fn since<B: RequestBody>(failed: Option<&Failed>, endpoint: &Endpoint<B>) -> Generation {
    match failed {
        Some(failed) if failed.endpoint == endpoint.id() || endpoint.is_http1() => failed.since,
        _ => Generation::default(),
    }
}

/// Returns whether an endpoint is another than the one that `failed`.
fn is_other<B: RequestBody>(failed: Option<&Failed>, endpoint: &Endpoint<B>) -> bool {
    failed.is_none_or(|failed| failed.endpoint != endpoint.id())
}
