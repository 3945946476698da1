//! Fetches the bundles of partners periodically (SPIFFE Federation §4.1, §4.2, §6).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use spiffe::TrustDomain;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use super::{FederatedBundle, fetch, partner::Partner, replace};
use crate::{
    backoff,
    endpoint::DEFAULT_HINT,
    error::Error,
    lock::lock,
    random::random_bytes,
    state::State,
    status::{PartnerState, PartnerStatus},
};

/// The range of periods, whatever hint a bundle has.
const MIN_PERIOD: Duration = Duration::from_secs(1);
const MAX_PERIOD: Duration = Duration::from_secs(24 * 3600);

/// The most characters of the reason for a failure, because an endpoint chooses a part of its text.
const MAX_REASON: usize = 500;

/// The partners whose bundles are fetched. Dropping this ends all fetches.
pub(crate) struct Followers {
    state: Arc<State>,
    running: Mutex<BTreeMap<String, Follower>>,
}

/// The result of a fetch: the sequence number, or the reason why there is no bundle.
type Fetched = Result<Option<u64>, String>;

struct Follower {
    shared: Arc<Shared>,
    /// Requests to fetch now.
    now: mpsc::Sender<oneshot::Sender<Fetched>>,
    _task: JoinSet<()>,
}

/// One partner, and the results of its fetches.
struct Shared {
    state: Arc<State>,
    partner: Partner,
    /// True once the relationship has ended. A fetch that ends later changes nothing.
    ended: AtomicBool,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    failures: u32,
    error: Option<String>,
    fetched: Option<Instant>,
}

impl Followers {
    /// Fetches the bundles of the configuration's partners.
    pub(crate) fn start(state: &Arc<State>) -> Self {
        let followers = Self {
            state: Arc::clone(state),
            running: Mutex::default(),
        };
        for partner in &state.config.partners {
            followers.run(partner.clone());
        }
        followers
    }

    /// Begins a relationship, in place of one with the same trust domain.
    pub(crate) fn follow(&self, partner: Partner) -> Result<(), Error> {
        let (own, domain) = (&self.state.trust_domain, partner.trust_domain());
        if domain == own {
            let reason = "this is the agent's own trust domain";
            return Err(Error::partner(domain, reason));
        }
        partner.check_bootstrap(|known| known == own || self.state.federated(known).is_some())?;
        if let Some(bundle) = partner.bootstrap().cloned() {
            self.state.federate(|bundles| {
                replace(bundles, bundle);
                Ok(())
            })?;
        }
        // The former relationship ends only now, so that it continues if the new one is refused.
        self.end(domain);
        self.run(partner);
        Ok(())
    }

    /// Ends a relationship. Returns whether there was one. The bundle stays.
    pub(crate) fn end(&self, trust_domain: &TrustDomain) -> bool {
        let follower = lock(&self.running).remove(trust_domain.as_str());
        let Some(follower) = follower else {
            return false;
        };
        follower.shared.ended.store(true, SeqCst);
        true
    }

    /// Fetches a bundle now.
    pub(crate) async fn refresh(&self, trust_domain: &TrustDomain) -> Result<Option<u64>, Error> {
        let refused = |reason: &str| Error::partner(trust_domain, reason);
        let now = lock(&self.running)
            .get(trust_domain.as_str())
            .map(|follower| follower.now.clone());
        let Some(now) = now else {
            return Err(refused(
                "the agent does not fetch its bundle; see 'dev-agent ctl federate-with'",
            ));
        };
        let (reply, replied) = oneshot::channel();
        let ended = "the relationship ended meanwhile";
        now.send(reply).await.map_err(|_| refused(ended))?;
        let fetched = replied.await.map_err(|_| refused(ended))?;
        fetched.map_err(|reason| refused(&reason))
    }

    /// Returns the status of each partner, in the order of their names.
    pub(crate) fn status(&self) -> Vec<PartnerStatus> {
        let running = lock(&self.running);
        let shared = running.values().map(|follower| &follower.shared);
        shared.map(|shared| shared.status()).collect()
    }

    fn run(&self, partner: Partner) {
        let name = partner.trust_domain().as_str().to_owned();
        let shared = Arc::new(Shared {
            state: Arc::clone(&self.state),
            partner,
            ended: AtomicBool::new(false),
            progress: Mutex::default(),
        });
        let (now, requests) = mpsc::channel(1);
        let mut task = JoinSet::new();
        task.spawn(follow(Arc::clone(&shared), requests));
        let follower = Follower {
            shared,
            now,
            _task: task,
        };
        lock(&self.running).insert(name, follower);
    }
}

/// Fetches at the start, then by the refresh hint, and whenever it is asked to.
async fn follow(shared: Arc<Shared>, mut requests: mpsc::Receiver<oneshot::Sender<Fetched>>) {
    let mut asked: Option<oneshot::Sender<Fetched>> = None;
    loop {
        let fetched = shared.fetch().await;
        if let Some(reply) = asked.take() {
            // The command that asked may have ended.
            let _ = reply.send(fetched);
        }
        let next = Instant::now() + shared.wait();
        tokio::select! {
            () = sleep_until(next) => {}
            request = requests.recv() => match request {
                Some(reply) => asked = Some(reply),
                None => return,
            },
        }
    }
}

impl Shared {
    /// Fetches the bundle, and gives it to the workloads if it is not older than theirs.
    async fn fetch(&self) -> Fetched {
        let fetched = fetch::fetch(&self.state, &self.partner).await;
        let taken = fetched.and_then(|bundle| self.take(bundle));
        let taken = taken.map_err(|reason| reason.chars().take(MAX_REASON).collect());
        self.record(&taken);
        taken
    }

    fn take(&self, bundle: FederatedBundle) -> Fetched {
        let sequence = bundle.sequence();
        let domain = self.partner.trust_domain();
        let (certificates, keys) = (bundle.certificates().len(), bundle.jwt_keys());
        let current = self.state.federated(domain);
        if current.as_ref() == Some(&bundle) {
            return Ok(sequence);
        }
        let taken = self.state.federate(|bundles| {
            let refused = |reason| Error::federated(domain.id_string(), reason);
            if self.ended.load(SeqCst) {
                return Err(refused("the relationship has ended".to_owned()));
            }
            is_newer(bundles, &bundle).map_err(refused)?;
            replace(bundles, bundle);
            Ok(())
        });
        taken.map_err(|error| error.to_string())?;
        info!(
            ?sequence,
            "bundle of {domain} fetched: {certificates} CAs, {keys} JWT keys"
        );
        Ok(sequence)
    }

    /// Notes a result, and logs each change of it.
    fn record(&self, result: &Fetched) {
        let domain = self.partner.trust_domain();
        let mut progress = lock(&self.progress);
        match result {
            Ok(_) => {
                if progress.failures > 0 {
                    info!("the bundle endpoint of {domain} is back");
                }
                *progress = Progress {
                    fetched: Some(Instant::now()),
                    ..Progress::default()
                };
            }
            Err(reason) => {
                if progress.error.as_ref() != Some(reason) {
                    warn!(
                        reason,
                        "no bundle from the endpoint of {domain}; workloads keep the last one"
                    );
                }
                progress.failures = progress.failures.saturating_add(1);
                progress.error = Some(reason.clone());
            }
        }
    }

    /// Returns the period of fetches: the hint of the bundle in use.
    fn period(&self) -> Duration {
        let bundle = self.state.federated(self.partner.trust_domain());
        let hint = bundle.and_then(|bundle| bundle.refresh_hint());
        hint.unwrap_or(DEFAULT_HINT).clamp(MIN_PERIOD, MAX_PERIOD)
    }

    /// Returns the time until the next fetch. It is up to a tenth shorter at random, so that the clients of
    /// an endpoint do not all fetch at the same moment.
    fn wait(&self) -> Duration {
        let wait = wait(self.period(), lock(&self.progress).failures);
        let random = random_bytes().map_or(0, u16::from_be_bytes);
        wait - wait / 10 * u32::from(random) / 65536
    }

    fn status(&self) -> PartnerStatus {
        let domain = self.partner.trust_domain();
        let progress = lock(&self.progress);
        let state = match (&progress.error, progress.fetched) {
            (Some(_), _) => PartnerState::Failing,
            (None, Some(_)) => PartnerState::Current,
            (None, None) => PartnerState::Waiting,
        };
        let bundle = self.state.federated(domain);
        PartnerStatus {
            trust_domain: domain.id_string(),
            url: self.partner.url().to_string(),
            profile: self.partner.profile().to_owned(),
            state,
            failures: progress.failures,
            error: progress.error.clone(),
            sequence: bundle.and_then(|bundle| bundle.sequence()),
            refresh_hint: self.period().as_secs(),
            fetched_seconds_ago: progress.fetched.map(|at| at.elapsed().as_secs()),
        }
    }
}

/// Returns the time until the next fetch. After failures it begins at a second and doubles up to the
/// period.
fn wait(period: Duration, failures: u32) -> Duration {
    match failures {
        0 => period,
        failures => backoff::pause(failures, MIN_PERIOD, period),
    }
}

/// Refuses a bundle that is older than the one in use (Federation §4.2, Bundle §4.1.1).
fn is_newer(bundles: &[FederatedBundle], new: &FederatedBundle) -> Result<(), String> {
    let mut all = bundles.iter();
    let current = all.find(|bundle| bundle.trust_domain() == new.trust_domain());
    match (current.and_then(FederatedBundle::sequence), new.sequence()) {
        (Some(current), Some(new)) if new < current => Err(format!(
            "its sequence number {new} is older than {current}, that of the bundle in use; if its issuer began again, end the relationship and begin it again"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_repeated_after_a_second_and_then_less_often_f007() {
        for (period, failures, expected) in [
            (300, 0, 300),
            (300, 1, 1),
            (300, 2, 2),
            (300, 5, 16),
            (300, 9, 256),
            (300, 10, 300),
            (300, u32::MAX, 300),
            (1, 1, 1),
            (1, 3, 1),
        ] {
            let got = wait(Duration::from_secs(period), failures);
            assert_eq!(got.as_secs(), expected, "{failures} failures of {period} s");
        }
    }

    #[test]
    fn older_sequence_number_is_refused_and_an_absent_one_is_taken_f006() {
        let bundle = |sequence: Option<u64>| {
            let mut document = serde_json::json!({ "keys": [] });
            if let Some(sequence) = sequence {
                document["spiffe_sequence"] = sequence.into();
            }
            let domain = TrustDomain::new("b.test").unwrap();
            FederatedBundle::parse(domain, &document.to_string()).unwrap()
        };
        for (current, new, taken) in [
            (None, None, true),
            (None, Some(1), true),
            (Some(2), None, true),
            (Some(2), Some(3), true),
            (Some(2), Some(2), true),
            (Some(2), Some(1), false),
            (Some(u64::MAX), Some(0), false),
        ] {
            let newer = is_newer(&[bundle(current)], &bundle(new));
            assert_eq!(newer.is_ok(), taken, "{new:?} after {current:?}");
        }
        assert_eq!(is_newer(&[], &bundle(Some(0))), Ok(()));
    }
}
