//! Name resolution: from the URLs of an upstream to the locations of its endpoints.
//!
//! Names are looked up when a connection is opened, and from time to time while there are any. Each
//! answer goes to the function that came with the look-up. The endpoints that are known so far stay
//! here.

use std::{
    io,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use common::lock::lock;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, join_all},
};
use spiffe::SpiffeId;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tracing::debug;

use super::{
    error::Error,
    origin::{Addresses, At, Location, Origin},
    url::UpstreamUrl,
};

/// The least time between two look-ups.
const GOOD_FOR: Duration = Duration::from_secs(2);

const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// An endpoint that answers lack is kept for this long, and until this many answers in a row lacked
/// it. Many resolvers answer with a part of the addresses, each time with another.
const GRACE: Duration = Duration::from_secs(30);
const MIN_ANSWERS: u32 = 2;

/// A look-up of all names, for all that wait for it.
pub(super) type LookUp = Shared<BoxFuture<'static, ()>>;

/// Looks up the names of an upstream.
pub(super) struct Resolver {
    origins: Vec<Arc<Origin>>,
    expected: Option<SpiffeId>,
    state: Mutex<State>,
    /// Notifies waiting tasks after each look-up of a name.
    looked_up: Notify,
}

struct State {
    known: Known,
    /// Set once endpoints were found and passed on.
    is_ready: bool,
    running: Option<LookUp>,
    finished: Option<Instant>,
    /// The last failure of a look-up.
    error: Option<Error>,
}

/// The endpoints that the names have.
#[derive(Default)]
struct Known {
    all: Vec<Resolved>,
    last_id: u64,
}

struct Resolved {
    location: Arc<Location>,
    /// The last answers in a row that lacked the endpoint, if there are any.
    missing: Option<Missing>,
}

/// The answers in a row that lacked an endpoint.
#[derive(Clone, Copy)]
struct Missing {
    since: Instant,
    answers: u32,
}

impl Resolver {
    /// Returns a resolver of the names in `urls`. `expected` names the upstream in errors.
    pub(super) fn new(urls: &[UpstreamUrl], expected: Option<SpiffeId>) -> Arc<Self> {
        let origins: Vec<_> = urls.iter().map(|url| Arc::new(Origin::new(url))).collect();
        let mut known = Known::default();
        for origin in &origins {
            if let Some(addresses) = origin.literal() {
                known.learn(origin, addresses);
            }
        }
        Arc::new(Self {
            origins,
            expected,
            state: Mutex::new(State {
                is_ready: !known.all.is_empty(),
                known,
                running: None,
                finished: None,
                error: None,
            }),
            looked_up: Notify::new(),
        })
    }

    /// Returns the name of the upstream as a whole in errors.
    pub(super) fn at(&self) -> At {
        At::new(&self.origins[0], &[])
    }

    /// Returns the endpoints that are known so far.
    pub(super) fn locations(&self) -> Vec<Arc<Location>> {
        self.lock().known.locations()
    }

    /// Returns the last failure, if no endpoint is known.
    pub(super) fn unresolved(&self) -> Option<Error> {
        let state = self.lock();
        let error = state.error.clone();
        error.filter(|_| state.known.all.is_empty())
    }

    /// Starts a look-up unless the last one is recent or there is no name. Each answer goes to `apply`.
    pub(super) fn refresh(
        self: &Arc<Self>,
        apply: impl Fn(Vec<Arc<Location>>) + Send + Sync + 'static,
    ) {
        let finished = self.lock().finished;
        let is_recent = finished.is_some_and(|finished| finished.elapsed() < GOOD_FOR);
        if !is_recent && self.names().next().is_some() {
            let _runs_by_itself = self.look_up(apply);
        }
    }

    /// Waits until endpoints are known. Each answer goes to `apply`.
    ///
    /// # Errors
    /// Fails when all names were looked up, and none has an endpoint.
    pub(super) async fn ready(
        self: &Arc<Self>,
        apply: impl Fn(Vec<Arc<Location>>) + Send + Sync + 'static,
    ) -> Result<(), Error> {
        if self.lock().is_ready {
            return Ok(());
        }
        let mut look_up = pin!(self.look_up(apply));
        loop {
            let looked_up = self.looked_up.notified();
            if self.lock().is_ready {
                return Ok(());
            }
            tokio::select! {
                () = look_up.as_mut() => break,
                () = looked_up => {}
            }
        }
        let state = self.lock();
        match &state.error {
            Some(error) if !state.is_ready => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Starts a look-up of all names, or returns the one that is under way.
    fn look_up(
        self: &Arc<Self>,
        apply: impl Fn(Vec<Arc<Location>>) + Send + Sync + 'static,
    ) -> LookUp {
        let mut state = self.lock();
        if let Some(running) = &state.running {
            return running.clone();
        }
        let look_up = Arc::clone(self).look_up_all(apply).boxed().shared();
        tokio::spawn(look_up.clone());
        state.running = Some(look_up.clone());
        look_up
    }

    /// Looks up all names at once, so that one whose server does not answer delays no other.
    async fn look_up_all(
        self: Arc<Self>,
        apply: impl Fn(Vec<Arc<Location>>) + Send + Sync + 'static,
    ) {
        join_all(self.names().map(|origin| self.look_up_one(origin, &apply))).await;
        let mut state = self.lock();
        state.running = None;
        state.finished = Some(Instant::now());
    }

    /// Looks up one name. If that fails, the name keeps the endpoints that it had.
    async fn look_up_one(&self, origin: &Arc<Origin>, apply: &impl Fn(Vec<Arc<Location>>)) {
        match look_up(origin).await {
            Ok(found) => {
                let locations = {
                    let mut state = self.lock();
                    state.known.learn(origin, found);
                    state.known.locations()
                };
                // No lock is held here, because `apply` takes another.
                apply(locations);
                self.lock().is_ready = true;
            }
            Err(error) => {
                let at = At::new(origin, &[]);
                debug!(%error, "cannot resolve {at}");
                let error = Error::unresolved(&error, at, self.expected.clone());
                self.lock().error = Some(error);
            }
        }
        self.looked_up.notify_waiters();
    }

    /// Returns the origins that have to be looked up.
    fn names(&self) -> impl Iterator<Item = &Arc<Origin>> {
        self.origins.iter().filter(|one| one.literal().is_none())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Looks up one name within the time that a look-up may take.
pub(super) async fn look_up(origin: &Origin) -> io::Result<Vec<Addresses>> {
    let found = timeout(LOOK_UP_TIMEOUT, origin.resolve()).await;
    found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl Known {
    /// Takes an answer with the endpoints of `origin`. Endpoints that answers have lacked for a while are
    /// dropped. The same addresses in a later answer are another endpoint.
    fn learn(&mut self, origin: &Arc<Origin>, mut found: Vec<Addresses>) {
        let now = Instant::now();
        self.all.retain_mut(|endpoint| {
            if !Arc::ptr_eq(&endpoint.location.origin, origin) {
                return true;
            }
            let is_it = |one: &Addresses| *one == endpoint.location.addresses;
            let Some(index) = found.iter().position(is_it) else {
                return endpoint.is_kept_without_answer(now);
            };
            found.swap_remove(index);
            endpoint.missing = None;
            true
        });
        for addresses in found {
            self.last_id += 1;
            self.all.push(Resolved {
                location: Arc::new(Location {
                    id: self.last_id,
                    origin: Arc::clone(origin),
                    addresses,
                }),
                missing: None,
            });
        }
    }

    fn locations(&self) -> Vec<Arc<Location>> {
        let locations = self.all.iter().map(|one| Arc::clone(&one.location));
        locations.collect()
    }
}

impl Resolved {
    /// Notes an answer that lacks the endpoint. Returns whether the endpoint is still kept.
    fn is_kept_without_answer(&mut self, now: Instant) -> bool {
        let missing = self.missing.get_or_insert(Missing {
            since: now,
            answers: 0,
        });
        missing.answers += 1;
        missing.answers < MIN_ANSWERS || now < missing.since + GRACE
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::outbound::url::Protocol;

    fn parsed(url: &str) -> UpstreamUrl {
        let host = url.trim_start_matches("https://").parse().unwrap();
        UpstreamUrl::host(Protocol::Https, host)
    }

    fn origin(url: &str) -> Arc<Origin> {
        Arc::new(Origin::new(&parsed(url)))
    }

    fn learn(known: &mut Known, origin: &Arc<Origin>, found: &[&str]) {
        let one = |text: &&str| vec![text.parse().unwrap()];
        known.learn(origin, found.iter().map(one).collect());
    }

    /// Returns the endpoints by their numbers.
    fn ids(known: &Known) -> Vec<(u64, String)> {
        let locations = known.locations();
        let id = |one: &Arc<Location>| (one.id, one.addresses[0].to_string());
        let mut ids: Vec<_> = locations.iter().map(id).collect();
        ids.sort();
        ids
    }

    /// Returns whether exactly these endpoints are known.
    fn has(known: &Known, expected: &[(u64, &str)]) -> bool {
        let expected = expected.iter().map(|(id, text)| (*id, (*text).to_owned()));
        ids(known) == expected.collect::<Vec<_>>()
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_that_answers_lack_are_dropped_after_a_grace_time() {
        let (name, other) = (origin("https://name:1"), origin("https://10.0.0.9:1"));
        let mut known = Known::default();
        known.learn(&other, other.literal().unwrap());
        let own = (1, "10.0.0.9:1");
        let (a, b) = ("10.0.0.1:1", "10.0.0.2:1");
        let second = Duration::from_secs(1);
        for (after, found, expected) in [
            (second, &[a] as &[&str], &[own, (2, a)] as &[(u64, &str)]),
            (second, &[b, a], &[own, (2, a), (3, b)]),
            (second, &[b], &[own, (2, a), (3, b)]),
            (GRACE - second, &[b], &[own, (2, a), (3, b)]),
            (second, &[b], &[own, (3, b)]),
            // The same address later is another endpoint, because its connections were closed.
            (second, &[b, a], &[own, (3, b), (4, a)]),
        ] {
            advance(after).await;
            learn(&mut known, &name, found);
            assert!(has(&known, expected), "{found:?}: {:?}", ids(&known));
        }
        assert!(known.all.iter().all(|one| one.missing.is_none()));
    }

    #[tokio::test(start_paused = true)]
    async fn one_answer_alone_drops_no_endpoint() {
        let name = origin("https://name:1");
        let mut known = Known::default();
        let (a, b) = ("10.0.0.1:1", "10.0.0.2:1");
        learn(&mut known, &name, &[a, b]);
        advance(10 * GRACE).await;
        learn(&mut known, &name, &[b]);
        assert!(has(&known, &[(1, a), (2, b)]));
        advance(10 * GRACE).await;
        learn(&mut known, &name, &[b]);
        assert!(has(&known, &[(2, b)]));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_with_a_part_of_the_addresses_keep_all_endpoints() {
        let name = origin("https://name:1");
        let mut known = Known::default();
        let (a, b, c) = ("10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1");
        learn(&mut known, &name, &[a, b, c]);
        for found in [&[a, b] as &[&str], &[c], &[b], &[a, c]]
            .iter()
            .cycle()
            .take(40)
        {
            advance(Duration::from_secs(10)).await;
            learn(&mut known, &name, found);
            assert!(has(&known, &[(1, a), (2, b), (3, c)]));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_for_one_name_changes_no_endpoint_of_another() {
        let (one, two) = (origin("https://one:1"), origin("https://two:1"));
        let mut known = Known::default();
        let (a, b) = ("10.0.0.1:1", "10.0.0.2:1");
        learn(&mut known, &one, &[a]);
        for _ in 0..10 {
            advance(GRACE).await;
            learn(&mut known, &two, &[b]);
        }
        assert!(has(&known, &[(1, a), (2, b)]));
    }

    #[test]
    fn addresses_in_urls_are_known_without_a_look_up() {
        let urls = ["https://10.0.0.9:1", "https://name:1"].map(parsed);
        let resolver = Resolver::new(&urls, None);
        assert!(has(&resolver.lock().known, &[(1, "10.0.0.9:1")]));
        assert!(resolver.lock().is_ready);
        assert_eq!(resolver.names().count(), 1);
    }
}
