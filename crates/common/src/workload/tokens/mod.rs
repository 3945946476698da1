//! JWT-SVIDs that survive outages: a [`TokenSource`] holds the token of one SPIFFE ID for one set of
//! audiences, renews it in the background, and hands out the one it has while the agent fails.
//!
//! One task fetches, and callers only wait for what it finds: there is never more than one fetch, and
//! a caller that goes away disturbs nobody.

mod lifetime;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::rand;
use spiffe::{JwtSvid, SpiffeId};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use self::lifetime::Lifetime;
use super::{Error, Reason, WorkloadApi};
use crate::backoff::Backoff;

/// How long one fetch may take: an agent answers in milliseconds, and one that is stuck may be
/// replaced by one that isn't.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The pauses after fetches that failed; chance halves them at most.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(3));

/// The least time from a fetch that brought a token to the next one, whatever token it was.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// The least time between two fetches because a token was refused: a server that refuses every token
/// must not become the agent's load.
const REFUSED_INTERVAL: Duration = Duration::from_secs(1);

/// The JWT-SVID of one SPIFFE ID for one set of audiences, kept current. Dropping it ends its task.
///
/// It is renewed from half of its life on. When that fails, the one there is serves on until shortly
/// before it expires (5 s, or a tenth of what was left of it when it came), while the fetch is
/// repeated every 0.1 s to 3 s. An agent that says that there is no identity for this process any more
/// has not failed: then the token is not used any more either (Workload API §5.2.1).
pub struct TokenSource {
    shared: Arc<Shared>,
    _task: JoinSet<()>,
}

struct Shared {
    state: watch::Sender<State>,
    /// Callers wait for a token, and its time has not come.
    wanted: Notify,
    clock: Box<dyn Fn() -> SystemTime + Send + Sync>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    /// Why the last fetch failed, until the next one begins.
    failure: Option<Arc<Error>>,
}

struct Held {
    svid: Arc<JwtSvid>,
    lifetime: Lifetime,
    /// A server would not have it.
    refused: bool,
}

impl TokenSource {
    /// Fetches the token of `id` or, without it, of the default identity, for all of `audiences` (at
    /// least one): the first at once, on the current runtime.
    #[must_use]
    pub fn new(
        workload_api: WorkloadApi,
        mut audiences: Vec<String>,
        id: Option<SpiffeId>,
    ) -> Self {
        audiences.sort_unstable();
        audiences.dedup();
        let workload_api = WorkloadApi {
            startup_timeout: workload_api.startup_timeout.min(FETCH_TIMEOUT),
            ..workload_api
        };
        let request = Arc::new((workload_api, audiences, id));
        let fetch = move || {
            let request = Arc::clone(&request);
            async move {
                let (workload_api, audiences, id) = &*request;
                workload_api.fetch_jwt_svid(audiences, id.as_ref()).await
            }
        };
        Self::fetching(fetch, SystemTime::now)
    }

    fn fetching<F>(
        fetch: impl Fn() -> F + Send + Sync + 'static,
        clock: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<JwtSvid, Error>> + Send + 'static,
    {
        let shared = Arc::new(Shared {
            state: watch::Sender::default(),
            wanted: Notify::new(),
            clock: Box::new(clock),
        });
        let mut task = JoinSet::new();
        task.spawn(Renewal::new(Arc::clone(&shared)).run(fetch));
        Self {
            shared,
            _task: task,
        }
    }

    /// The token: at once while there is a good one, otherwise as soon as the one fetch for all callers
    /// is done. That takes 5 s at most, or 6 s if the last one was refused; a caller that has less time
    /// stops waiting, and the fetch goes on.
    ///
    /// # Errors
    /// When there is no good token and the last fetch failed: why it did.
    pub async fn token(&self) -> Result<Arc<JwtSvid>, Arc<Error>> {
        let mut state = self.shared.state.subscribe();
        loop {
            let answer = state.borrow_and_update().answer(&self.shared);
            if let Some(answer) = answer {
                return answer;
            }
            self.shared.wanted.notify_one();
            // Never an error: we hold the sender.
            let _ = state.changed().await;
        }
    }

    /// Says that a server refused this token (`401`, `error="invalid_token"`) though it has not expired:
    /// its key may be gone, with an agent that was restarted. If it is still the current one, the next
    /// [`Self::token`] waits for another, which is fetched at most once a second. When none can be had,
    /// it gives this one again: another server may well take it.
    pub fn invalidate(&self, refused: &JwtSvid) {
        self.shared
            .state
            .send_if_modified(|state| match &mut state.held {
                Some(held) if held.svid.token() == refused.token() => {
                    !std::mem::replace(&mut held.refused, true)
                }
                _ => false,
            });
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSource").finish_non_exhaustive()
    }
}

impl Shared {
    fn is_good(&self, lifetime: &Lifetime) -> bool {
        lifetime.includes((self.clock)(), Instant::now())
    }

    fn is_refused(&self) -> bool {
        let state = self.state.borrow();
        state.held.as_ref().is_some_and(|held| held.refused)
    }
}

impl State {
    /// What a caller gets now; nothing if it has to wait.
    fn answer(&self, shared: &Shared) -> Option<Result<Arc<JwtSvid>, Arc<Error>>> {
        let good = self
            .held
            .as_ref()
            .filter(|held| shared.is_good(&held.lifetime));
        match (good, &self.failure) {
            (Some(held), failure) if !held.refused || failure.is_some() => {
                Some(Ok(Arc::clone(&held.svid)))
            }
            (None, Some(failure)) => Some(Err(Arc::clone(failure))),
            _ => None,
        }
    }
}

/// The task.
struct Renewal {
    shared: Arc<Shared>,
    /// No fetch before this one, and one at this one the latest.
    next: (Instant, Instant),
    /// Fetches that failed since the last that didn't.
    failures: u32,
    /// When a token was last fetched because the one before had been refused.
    refused: Option<Instant>,
}

impl Renewal {
    fn new(shared: Arc<Shared>) -> Self {
        let now = Instant::now();
        Self {
            shared,
            next: (now, now),
            failures: 0,
            refused: None,
        }
    }

    async fn run<F>(mut self, fetch: impl Fn() -> F)
    where
        F: Future<Output = Result<JwtSvid, Error>>,
    {
        loop {
            self.due().await;
            self.shared.state.send_if_modified(|state| {
                // Callers who come from now on wait for what this fetch brings.
                state.failure.take().is_some()
            });
            match fetch().await {
                Ok(svid) => self.renewed(svid),
                Err(error) => self.failed(error),
            }
        }
    }

    /// Waits until the next fetch is due.
    async fn due(&mut self) {
        let (earliest, latest) = self.next;
        sleep_until(earliest).await;
        tokio::select! {
            () = sleep_until(latest) => {}
            () = self.wanted() => {}
        }
        if self.shared.is_refused() {
            if let Some(last) = self.refused {
                sleep_until(last + REFUSED_INTERVAL).await;
            }
            self.refused = Some(Instant::now());
        }
    }

    /// Waits for a caller who has to wait.
    async fn wanted(&self) {
        loop {
            self.shared.wanted.notified().await;
            if self.shared.state.borrow().answer(&self.shared).is_none() {
                return;
            }
            // Word of a caller who was served since; or the clock was set back, and there is one who
            // waits for nothing: they look again.
            self.shared.state.send_modify(|_| ());
        }
    }

    fn renewed(&mut self, svid: JwtSvid) {
        let now = Instant::now();
        let lifetime = Lifetime::new(&svid, (self.shared.clock)(), now, random());
        match self.failures {
            0 => debug!(spiffe_id = %svid.spiffe_id(), "JWT-SVID issued"),
            _ => info!(spiffe_id = %svid.spiffe_id(), "JWT-SVID issued again"),
        }
        self.failures = 0;
        self.next = (now + MIN_INTERVAL, lifetime.renewal);
        self.shared.state.send_modify(|state| {
            state.held = Some(Held {
                svid: Arc::new(svid),
                lifetime,
                refused: false,
            });
        });
    }

    fn failed(&mut self, error: Error) {
        let withdrawn = matches!(error.reason(), Reason::NoIdentityIssued(_));
        let left = self.left();
        if !left.is_zero() && withdrawn {
            warn!("JWT-SVID withdrawn by the Workload API: {error}");
        } else if !left.is_zero() && self.failures == 0 {
            // Once for an outage, while callers don't notice it: later they get the error.
            let left = humantime::format_duration(Duration::from_secs(left.as_secs()));
            warn!("cannot renew the JWT-SVID: {error}; going on with the current one for {left}");
        }
        self.failures = self.failures.saturating_add(1);
        let pause = BACKOFF.pause(self.failures).mul_f64(0.5 + random() / 2.0);
        let retry = Instant::now() + pause;
        self.next = (retry, retry);
        self.shared.state.send_modify(|state| {
            state.failure = Some(Arc::new(error));
            if withdrawn {
                state.held = None;
            }
        });
    }

    /// How long the current token may still be sent.
    fn left(&self) -> Duration {
        let state = self.shared.state.borrow();
        state.held.as_ref().map_or(Duration::ZERO, |held| {
            held.lifetime.left((self.shared.clock)(), Instant::now())
        })
    }
}

/// From 0 to 1, so that many workloads don't act as one. Without entropy they do.
fn random() -> f64 {
    let mut bytes = [0; 4];
    let _ = rand::fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}
