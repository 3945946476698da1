//! What the requests and tasks of one core share of a target: its endpoints, and which is chosen.

use std::sync::Arc;

use common::fair::FairQueue;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::{
    Error, RequestBody,
    choice::least_of_two,
    connection::Opened,
    connector::Offer,
    endpoint::Endpoint,
    origin::{Addresses, Origin},
    prepared::Need,
    resolve::Resolution,
};

/// Behind one lock, which only its core takes.
pub(super) struct State<B> {
    pub(super) endpoints: Vec<Endpoint<B>>,
    pub(super) resolution: Resolution,
    /// The number of the newest connection.
    pub(super) newest: u64,
    /// The number of the newest connection that was verified by what is no longer so.
    pub(super) outdated: u64,
    /// When there may be an endpoint to try beside the requests.
    pub(super) look: Option<Instant>,
    /// Requests that wait for room on a connection.
    room: Arc<FairQueue>,
    last_id: u64,
}

/// A connection that failed a request, and the newest of that moment.
pub(super) struct Failed {
    pub(super) endpoint: u64,
    pub(super) newest: u64,
}

impl<B: RequestBody> State<B> {
    pub(super) fn new(origins: &[Arc<Origin>], room: &Arc<FairQueue>) -> Self {
        let mut state = Self {
            endpoints: Vec::new(),
            resolution: Resolution::default(),
            newest: 0,
            outdated: 0,
            look: None,
            room: Arc::clone(room),
            last_id: 0,
        };
        for origin in origins {
            if let Some(addresses) = origin.literal() {
                state.set_endpoints(origin, addresses);
            }
        }
        state
    }

    /// Takes an answer with the endpoints of `origin`. Endpoints that answers have lacked for a while
    /// are dropped: their connections end with the requests that they have.
    pub(super) fn set_endpoints(&mut self, origin: &Arc<Origin>, mut wanted: Vec<Addresses>) {
        let now = Instant::now();
        let missing = &mut self.resolution.missing;
        self.endpoints.retain(|endpoint| {
            if !Arc::ptr_eq(&endpoint.place.origin, origin) {
                return true;
            }
            let is_it = |one: &Addresses| *one == endpoint.place.addresses;
            let Some(known) = wanted.iter().position(is_it) else {
                return missing.keeps(endpoint.id, now);
            };
            wanted.swap_remove(known);
            missing.found(endpoint.id);
            true
        });
        for addresses in wanted {
            self.last_id += 1;
            let endpoint = Endpoint::new(self.last_id, origin, addresses, &self.room);
            self.endpoints.push(endpoint);
        }
        self.look_at(now);
    }

    pub(super) fn endpoint(&mut self, id: u64) -> Option<&mut Endpoint<B>> {
        self.endpoints.iter_mut().find(|one| one.id == id)
    }

    /// The endpoint for one more request, among those with a connection: for the second attempt of one
    /// that `failed` another, if there is one.
    pub(super) fn choose(&self, need: Need, failed: Option<&Failed>) -> Option<usize> {
        let is_ready = |one: &Endpoint<B>| one.has_room(need, above(failed, one));
        match failed {
            None => self.least_loaded(is_ready),
            Some(failed) => self
                .least_loaded(|one| one.id != failed.endpoint && is_ready(one))
                .or_else(|| self.least_loaded(is_ready)),
        }
    }

    /// The endpoint to open a connection to, except those `tried` and those left out: another than the
    /// one that `failed`, if there is one.
    pub(super) fn choose_to_open(
        &self,
        need: Need,
        failed: Option<&Failed>,
        tried: &[u64],
    ) -> Option<usize> {
        let now = Instant::now();
        let may_be = |one: &Endpoint<B>| {
            !tried.contains(&one.id)
                && one.health.left_out(now).is_none()
                && one.may_open(one.offer(need))
        };
        let is_other = |one: &Endpoint<B>| failed.is_none_or(|failed| failed.endpoint != one.id);
        self.least_loaded(|one| may_be(one) && is_other(one))
            .or_else(|| self.least_loaded(may_be))
    }

    /// The endpoint that may be well again, except those `tried`.
    pub(super) fn failed_longest_ago(&self, need: Need, tried: &[u64]) -> Option<usize> {
        let endpoints = self.endpoints.iter().enumerate();
        endpoints
            .filter(|(_, one)| !tried.contains(&one.id) && one.may_open(one.offer(need)))
            .min_by_key(|(_, endpoint)| endpoint.health.failed())
            .map(|(index, _)| index)
    }

    fn least_loaded(&self, may_be: impl Fn(&Endpoint<B>) -> bool) -> Option<usize> {
        let candidates = self.endpoints.iter().enumerate();
        let candidates = candidates.filter(|(_, endpoint)| may_be(endpoint));
        let loads = candidates.map(|(index, endpoint)| (index, endpoint.load.requests()));
        least_of_two(loads, |below| fastrand::usize(..below))
    }

    /// What became of opening a connection to an endpoint.
    pub(super) fn settle(
        &mut self,
        id: u64,
        offer: Offer,
        opened: Result<Opened<B>, Error>,
    ) -> Result<(), Error> {
        self.newest += 1;
        let number = self.newest;
        // It may be gone by now: then so is the connection.
        if let Some(endpoint) = self.endpoint(id) {
            if offer == Offer::Both {
                endpoint.opening = None;
            }
            match opened {
                Ok(opened) => endpoint.add(number, opened, offer),
                Err(error) => {
                    self.fails(id, &error);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Leaves an endpoint out for a while, once it has no connection; says so, once, if no request has
    /// to fail by it.
    pub(super) fn fails(&mut self, id: u64, reason: &Error) {
        let (now, several) = (Instant::now(), self.endpoints.len() > 1);
        // Without trust material of our own nothing was learned about it.
        if matches!(reason, Error::NoTrust(_)) {
            return;
        }
        let Some(endpoint) = self.endpoint(id) else {
            return;
        };
        let answers = endpoint.load.answers();
        let pause = endpoint.health.fails(now, answers, fastrand::f64());
        let is_beside = several || endpoint.has_connection();
        let is_news = is_beside && endpoint.health.is_first_failure();
        match reason {
            Error::Impostor { .. } if is_news => error!("left out: {reason}"),
            _ if is_news => warn!("left out for now: {reason}"),
            _ => debug!("left out for {pause:?}: {reason}"),
        }
        self.look_at(now + pause);
    }

    /// Leaves all connections, and forgets failures: what is to be verified by has changed.
    pub(super) fn renew(&mut self) {
        self.newest += 1;
        self.outdated = self.newest;
        for endpoint in &mut self.endpoints {
            endpoint.leave_all();
            endpoint.health = Default::default();
        }
        self.look_at(Instant::now());
    }

    /// Leaves connections that are idle or old; whether there are others.
    pub(super) fn sweep(&mut self) -> bool {
        let now = Instant::now();
        for endpoint in &mut self.endpoints {
            endpoint.sweep(now);
        }
        self.look_at(now);
        self.endpoints.iter().any(|one| !one.is_unconnected())
    }

    /// There may be an endpoint to try, then. A single one is tried by requests themselves.
    pub(super) fn look_at(&mut self, then: Instant) {
        if self.endpoints.len() > 1 {
            self.look = Some(self.look.map_or(then, |look| look.min(then)));
        }
    }
}

/// The number that a connection must be above for the second attempt of a request: what closed the
/// one that `failed` it may have closed others, and of an HTTP/1.1 endpoint's idle ones any.
pub(super) fn above<B: RequestBody>(failed: Option<&Failed>, endpoint: &Endpoint<B>) -> u64 {
    match failed {
        Some(failed) if failed.endpoint == endpoint.id || endpoint.is_http1() => failed.newest,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::Full;
    use hyper::body::Bytes;
    use tokio::time::advance;

    use super::*;
    use crate::outbound::{origin::At, resolve::GRACE};

    type Tested = State<Full<Bytes>>;

    const NEED: Need = Need::Shared(0);

    fn room() -> Arc<FairQueue> {
        Arc::new(FairQueue::new(9))
    }

    fn origin(url: &str) -> Arc<Origin> {
        Arc::new(Origin::new(&url.parse().unwrap()))
    }

    fn addresses(texts: &[&str]) -> Vec<Addresses> {
        let one = |text: &&str| vec![text.parse().unwrap()];
        texts.iter().map(one).collect()
    }

    fn ids(state: &Tested) -> Vec<(u64, String)> {
        let mut ids: Vec<_> = state
            .endpoints
            .iter()
            .map(|one| (one.id, one.place.addresses[0].to_string()))
            .collect();
        ids.sort();
        ids
    }

    fn refused() -> Error {
        let at = At::new(&"https://a".parse().unwrap(), &[]);
        Error::Failed(at, String::new())
    }

    /// Returns whether `state` has exactly these endpoints.
    fn has(state: &Tested, expected: &[(u64, &str)]) -> bool {
        let expected = expected.iter().map(|(id, text)| (*id, (*text).to_owned()));
        ids(state) == expected.collect::<Vec<_>>()
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_that_answers_lack_are_dropped_after_a_grace_time() {
        let (name, other) = (origin("https://name:1"), origin("https://10.0.0.9:1"));
        let mut state = Tested::new(&[Arc::clone(&name), other], &room());
        let own = (1, "10.0.0.9:1");
        let (a, b) = ("10.0.0.1:1", "10.0.0.2:1");
        assert!(has(&state, &[own]), "known without asking");
        let second = Duration::from_secs(1);
        for (after, found, expected) in [
            (second, &[a] as &[&str], &[own, (2, a)] as &[(u64, &str)]),
            (second, &[b, a], &[own, (2, a), (3, b)]),
            (second, &[b], &[own, (2, a), (3, b)]),
            (GRACE - second, &[b], &[own, (2, a), (3, b)]),
            (second, &[b], &[own, (3, b)]),
            // The same address again is another endpoint: its connections were left.
            (second, &[b, a], &[own, (3, b), (4, a)]),
        ] {
            advance(after).await;
            state.set_endpoints(&name, addresses(found));
            assert!(has(&state, expected), "{found:?}: {:?}", ids(&state));
        }
        assert!(state.resolution.missing.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_answer_alone_drops_no_endpoint() {
        let name = origin("https://name:1");
        let mut state = Tested::new(&[], &room());
        let (a, b) = ("10.0.0.1:1", "10.0.0.2:1");
        state.set_endpoints(&name, addresses(&[a, b]));
        advance(10 * GRACE).await;
        state.set_endpoints(&name, addresses(&[b]));
        assert!(has(&state, &[(1, a), (2, b)]));
        advance(10 * GRACE).await;
        state.set_endpoints(&name, addresses(&[b]));
        assert!(has(&state, &[(2, b)]));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_with_a_part_of_the_addresses_keep_all_endpoints() {
        let name = origin("https://name:1");
        let mut state = Tested::new(&[], &room());
        let (a, b, c) = ("10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1");
        state.set_endpoints(&name, addresses(&[a, b, c]));
        for found in [&[a, b] as &[&str], &[c], &[b], &[a, c]]
            .iter()
            .cycle()
            .take(40)
        {
            advance(Duration::from_secs(10)).await;
            state.set_endpoints(&name, addresses(found));
            assert!(has(&state, &[(1, a), (2, b), (3, c)]));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_of_one_name_says_nothing_of_another() {
        let (one, two) = (origin("https://one:1"), origin("https://two:1"));
        let mut state = Tested::new(&[], &room());
        let (a, b) = ("10.0.0.1:1", "10.0.0.2:1");
        state.set_endpoints(&one, addresses(&[a]));
        for _ in 0..10 {
            advance(GRACE).await;
            state.set_endpoints(&two, addresses(&[b]));
        }
        assert!(has(&state, &[(1, a), (2, b)]));
    }

    #[tokio::test(start_paused = true)]
    async fn those_left_out_are_tried_last_and_the_first_of_them_first() {
        let name = origin("https://name:1");
        let mut state = Tested::new(&[], &room());
        state.set_endpoints(
            &name,
            addresses(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]),
        );
        for id in [2, 1] {
            state.fails(id, &refused());
            advance(Duration::from_millis(10)).await;
        }
        let id =
            |state: &Tested, index: Option<usize>| index.map(|index| state.endpoints[index].id);
        let failed = Failed {
            endpoint: 3,
            newest: 0,
        };
        assert_eq!(id(&state, state.choose_to_open(NEED, None, &[])), Some(3));
        let again = state.choose_to_open(NEED, Some(&failed), &[]);
        assert_eq!(id(&state, again), Some(3), "better than one left out");
        assert_eq!(state.choose_to_open(NEED, None, &[3]), None);
        assert_eq!(id(&state, state.failed_longest_ago(NEED, &[3])), Some(2));
        assert_eq!(id(&state, state.failed_longest_ago(NEED, &[3, 2])), Some(1));

        advance(Duration::from_secs(2)).await;
        let other = state.choose_to_open(NEED, Some(&failed), &[1]);
        assert_eq!(
            id(&state, other),
            Some(2),
            "another than the one that failed"
        );
        state.fails(2, &refused());
        state.renew();
        let other = state.choose_to_open(NEED, Some(&failed), &[1]);
        assert_eq!(
            id(&state, other),
            Some(2),
            "failures by old trust say nothing"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_trust_of_our_own_nothing_is_learned_about_an_endpoint() {
        let mut state = Tested::new(&[origin("https://10.0.0.1:1")], &room());
        let at = At::new(&"https://10.0.0.1:1".parse().unwrap(), &[]);
        state.fails(1, &Error::NoTrust(at));
        assert_eq!(state.choose_to_open(NEED, None, &[]), Some(0));
    }
}
