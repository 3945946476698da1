//! JWT-SVIDs that stay available during an outage of the Workload API.
//!
//! A [`TokenSource`] has the token of one SPIFFE ID for one set of audiences. It renews the token in the
//! background, and returns the current one while the agent fails.
//!
//! One task fetches, and tasks that need a token wait for its result. There is therefore at most one
//! fetch at a time, and a task that stops waiting does not cancel it.

mod lifetime;
mod next;
mod state;
mod status;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use aws_lc_rs::rand;
use spiffe::{JwtSvid, SpiffeId};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};

use self::{
    lifetime::Lifetime,
    state::{Current, Shared},
};
pub use self::{
    next::Next,
    status::{TokenMonitor, TokenStatus},
};
use super::{Choice, Error, Reason, WorkloadApi};
use crate::{backoff::Backoff, count::Counter, lock::lock};

/// The pauses after failed fetches, before jitter, which at most halves them.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(3));

/// The shortest interval between a successful fetch and the next one.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// The shortest interval between two fetches that refused tokens cause. It bounds the load on the agent
/// when a server refuses every token.
const REFUSED_INTERVAL: Duration = Duration::from_secs(1);

/// The current JWT-SVID of one SPIFFE ID for one set of audiences. Dropping it ends its task.
///
/// The token is renewed from half of its life on. While that fails, the fetch is repeated every 0.1 s to 3 s.
/// The current token stays in use until 5 s before it expires. The 5 s are at most a tenth of the life that
/// the token had left when it came.
///
/// If the agent answers that this process has no identity, the token is dropped at once (Workload API
/// §5.2.1).
pub struct TokenSource {
    shared: Arc<Shared>,
    _task: JoinSet<()>,
}

/// Fetches tokens of one identity.
struct Fetcher {
    workload_api: WorkloadApi,
    audiences: Vec<String>,
    id: Option<SpiffeId>,
    /// The identity of the last token, if none was chosen. It is kept for as long as it is issued.
    held: Mutex<Option<SpiffeId>>,
}

impl Fetcher {
    async fn fetch(&self) -> Result<JwtSvid, Error> {
        if self.id.is_some() || self.workload_api.choice != Choice::First {
            return self.fetch_as(self.id.as_ref()).await;
        }
        let held = lock(&self.held).clone();
        let svid = match self.fetch_as(held.as_ref()).await {
            Err(error)
                if held.is_some() && matches!(error.reason(), Reason::NoIdentityIssued(_)) =>
            {
                self.fetch_as(None).await?
            }
            fetched => fetched?,
        };
        let id = svid.spiffe_id();
        if let Some(former) = held.filter(|held| held != id) {
            warn!(
                "this process is now {id}, because {former} is no longer issued to it: servers that allow \
                 {former} may refuse it"
            );
        }
        *lock(&self.held) = Some(id.clone());
        Ok(svid)
    }

    async fn fetch_as(&self, id: Option<&SpiffeId>) -> Result<JwtSvid, Error> {
        self.workload_api.fetch_jwt_svid(&self.audiences, id).await
    }
}

impl TokenSource {
    /// Returns the source of the token of `id`, or of the default identity, for all of `audiences`, of
    /// which there is at least one. It starts a task on the current runtime, which fetches at once.
    ///
    /// # Panics
    /// Panics when it is called outside a tokio runtime.
    #[must_use]
    pub fn new(
        workload_api: WorkloadApi,
        mut audiences: Vec<String>,
        id: Option<SpiffeId>,
    ) -> Self {
        audiences.sort_unstable();
        audiences.dedup();
        let fetcher = Arc::new(Fetcher {
            workload_api,
            audiences,
            id,
            held: Mutex::default(),
        });
        let fetch = move || {
            let fetcher = Arc::clone(&fetcher);
            async move { fetcher.fetch().await }
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
            fetched: Counter::default(),
            failed: Counter::default(),
        });
        let mut task = JoinSet::new();
        task.spawn(Renewal::new(Arc::clone(&shared)).run(fetch));
        Self {
            shared,
            _task: task,
        }
    }

    /// Returns the current token at once if it may be used, and otherwise waits for the fetch.
    ///
    /// The fetch takes at most the start-up timeout of the Workload API, and a second longer if the last
    /// token was refused. If the future is dropped before, the fetch continues.
    ///
    /// # Errors
    /// Fails when no token may be used and the last fetch failed. The error is that of the fetch.
    pub async fn token(&self) -> Result<Arc<JwtSvid>, Arc<Error>> {
        let mut state = self.shared.state.subscribe();
        loop {
            let result = state.borrow_and_update().result(&self.shared);
            if let Some(result) = result {
                return result;
            }
            self.shared.wanted.notify_one();
            // There is no error, because `self` holds the sender.
            let _ = state.changed().await;
        }
    }

    /// Returns a monitor of the state, which does not keep the source alive.
    #[must_use]
    pub fn monitor(&self) -> TokenMonitor {
        TokenMonitor::of(&self.shared)
    }

    /// Reports that a server refused this token, as [`Self::invalidate`] does. Returns another one, or `None`
    /// if there is no other.
    pub async fn renewed(&self, refused: &JwtSvid) -> Option<Arc<JwtSvid>> {
        self.invalidate(refused);
        let fresh = self.token().await.ok()?;
        (fresh.token() != refused.token()).then_some(fresh)
    }

    /// Reports that a server refused this token (`401`, `error="invalid_token"`) before it expired. Its
    /// JWT authority may be gone, for example after a restart of the agent.
    ///
    /// If it is still the current token, the next [`Self::token`] waits for another one, which is fetched
    /// at most once a second. If that fails, the same token is returned again, because another server
    /// may accept it.
    pub fn invalidate(&self, refused: &JwtSvid) {
        self.shared
            .state
            .send_if_modified(|state| match &mut state.current {
                Some(current) if current.svid.token() == refused.token() => {
                    !std::mem::replace(&mut current.refused, true)
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

/// The task that fetches.
struct Renewal {
    shared: Arc<Shared>,
    /// The earliest and the latest time of the next fetch.
    next: (Instant, Instant),
    /// The number of failed fetches in a row.
    failures: u32,
    /// The time of the last fetch that a refused token caused.
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
                // Calls of `token` from now on wait for the result of this fetch.
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

    /// Waits until a call of [`TokenSource::token`] has to wait.
    async fn wanted(&self) {
        loop {
            self.shared.wanted.notified().await;
            if self.shared.state.borrow().result(&self.shared).is_none() {
                return;
            }
            // The call has its result by now, or the clock was set back while it waits. It checks again.
            self.shared.state.send_modify(|_| ());
        }
    }

    fn renewed(&mut self, svid: JwtSvid) {
        let (now, since) = (Instant::now(), (self.shared.clock)());
        let lifetime = Lifetime::new(&svid, since, now, random());
        self.shared.fetched.add(1);
        match self.failures {
            0 => debug!(spiffe_id = %svid.spiffe_id(), "JWT-SVID issued"),
            // The level is that of the line about the first failure.
            _ => warn!(spiffe_id = %svid.spiffe_id(), "JWT-SVID issued again"),
        }
        self.failures = 0;
        self.next = (now + MIN_INTERVAL, lifetime.renewal);
        self.shared.state.send_modify(|state| {
            state.current = Some(Current {
                svid: Arc::new(svid),
                since,
                lifetime,
                refused: false,
            });
        });
    }

    fn failed(&mut self, error: Error) {
        self.shared.failed.add(1);
        let withdrawn = matches!(error.reason(), Reason::NoIdentityIssued(_));
        let left = self.left();
        if !left.is_zero() && withdrawn {
            warn!("JWT-SVID withdrawn by the Workload API: {error}");
        } else if !left.is_zero() && self.failures == 0 {
            // Logged once for an outage while a token is left. Later the callers get the error.
            let left = humantime::format_duration(Duration::from_secs(left.as_secs()));
            warn!("cannot renew the JWT-SVID: {error}; continuing with the current one for {left}");
        }
        self.failures = self.failures.saturating_add(1);
        let pause = BACKOFF.pause(self.failures).mul_f64(0.5 + random() / 2.0);
        let retry = Instant::now() + pause;
        self.next = (retry, retry);
        self.shared.state.send_modify(|state| {
            state.failure = Some(Arc::new(error));
            if withdrawn {
                state.current = None;
            }
        });
    }

    /// Returns how long the current token may still be used.
    fn left(&self) -> Duration {
        let state = self.shared.state.borrow();
        state.current.as_ref().map_or(Duration::ZERO, |current| {
            current.lifetime.left((self.shared.clock)(), Instant::now())
        })
    }
}

/// Returns a random number from 0 to 1, so that many workloads do not fetch at the same time. It is 0
/// if there is no entropy.
fn random() -> f64 {
    let mut bytes = [0; 4];
    let _ = rand::fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}
