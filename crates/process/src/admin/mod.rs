//! The admin listener: whether the process lives, whether it can do its work, and its log filter.
//!
//! It runs on the main thread, so that it answers while the cores are busy, and before an identity has come.
//!
//! - [`conditions`]: the conditions of a process; `identity`, `tokens`, `upstream`: those of its parts
//! - `flags`: its flags
//! - `listener`: its connections · `router`: its paths · `guard`: `Host` and `Origin`
//! - [`metrics`]: the metrics
//! - `page`: the page for people
//! - `ready`: the answer about the conditions · `media`: text or JSON

pub mod conditions;
mod flags;
mod guard;
mod identity;
mod listener;
mod media;
pub mod metrics;
mod page;
mod ready;
mod router;
mod tokens;
mod upstream;

use std::{
    sync::{Arc, Mutex},
    time::SystemTime,
};

use common::{
    lock::lock,
    workload::{Monitor, tokens::TokenMonitor},
};
use forward::outbound::UpstreamStatus;
use serve::{Shared, listen::Socket, shutdown::Shutdown};
use tracing::info;

pub use self::flags::AdminArgs;
use self::{
    conditions::{Condition, Conditions, State},
    metrics::Metrics,
    page::Shown,
    router::Router,
};
use crate::{
    listen::{self, ClaimedAddress, Inherited, ListenAddress},
    runtime::Cores,
};

/// The flag that names the address.
pub(crate) const FLAG: &str = "--admin";

/// The state of a process for its operators. It exists with and without a listener.
#[derive(Debug)]
pub struct Admin {
    conditions: Conditions,
    metrics: Metrics,
    shown: Shown,
    phase: Arc<Mutex<Phase>>,
}

/// An admin address that can be listened on, if there is one.
#[derive(Debug)]
pub struct ClaimedAdmin {
    address: Option<ClaimedAddress>,
    /// The names of the listener; `None` for a Unix socket.
    names: Option<Vec<String>>,
    /// Set if another process of this program may listen on the address too.
    is_shared: bool,
}

/// The phase of a process, and the time at which it began.
#[derive(Clone, Debug)]
struct Phase {
    work: Work,
    since: SystemTime,
}

#[derive(Clone, Debug)]
enum Work {
    Starting,
    /// The field says what the process does.
    Serving(String),
    Draining,
}

impl ClaimedAdmin {
    /// Claims the address of the flags. Processes of this user that share it are allowed if `reuse_port` is
    /// set.
    ///
    /// # Errors
    /// Fails when the address can't be listened on.
    pub fn claim(args: &AdminArgs, reuse_port: bool) -> Result<Self, listen::Error> {
        let address = args.address().map(|address| {
            let passed = Inherited::default();
            ClaimedAddress::claim(passed, address.of_flag(FLAG), reuse_port, 1)
        });
        let is_unix = matches!(args.address(), Some(ListenAddress::Unix(_)));
        Ok(Self {
            address: address.transpose()?,
            names: (!is_unix).then(|| args.hosts().to_vec()),
            is_shared: reuse_port,
        })
    }

    /// Listens, and answers for a process with these cores until it ends. An address that is shared is given up
    /// at `shutdown`, so that probes reach the process that continues.
    ///
    /// # Errors
    /// Fails when another process has taken the address.
    pub fn listen(self, cores: &Cores, shutdown: &Shutdown) -> anyhow::Result<Admin> {
        let admin = Admin::new(shutdown.clone());
        let Some(address) = self.address else {
            return Ok(admin);
        };
        let router = Arc::new(Router {
            conditions: admin.conditions.clone(),
            cores: cores.clone(),
            metrics: admin.metrics.clone(),
            shown: admin.shown.clone(),
            names: self.names,
        });
        let sockets = address.listen()?;
        let addresses = listen::addresses(&sockets)?;
        info!("admin listener at {addresses}");
        admin.listens("operators and probes", &addresses);
        for socket in sockets {
            let end = self.is_shared.then(|| shutdown.clone());
            tokio::spawn(listener::serve(
                Socket::from_std(socket)?,
                Arc::clone(&router),
                end,
            ));
        }
        Ok(admin)
    }
}

impl Admin {
    fn new(shutdown: Shutdown) -> Self {
        let phase = Phase::begin(Work::Starting);
        let phase = Arc::new(Mutex::new(phase));
        let conditions = Conditions::default();
        let shown = Arc::clone(&phase);
        conditions.add(move |_| vec![lock(&shown).condition()]);
        let stopping = Arc::clone(&phase);
        tokio::spawn(async move {
            shutdown.requested().await;
            *lock(&stopping) = Phase::begin(Work::Draining);
        });
        Self {
            metrics: Metrics::new(conditions.clone()),
            conditions,
            shown: Shown::default(),
            phase,
        }
    }

    /// Returns the conditions, to read them or to add some.
    #[must_use]
    pub fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// Returns the metrics, to add some.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Returns a monitor for the process's Workload API. The conditions that follow from it are there once a
    /// source is connected.
    #[must_use]
    pub fn follow_identity(&self) -> Monitor {
        let monitor = Monitor::new();
        self.metrics.identity(&monitor);
        self.shown.identity(&monitor);
        let observed = monitor.clone();
        self.conditions
            .add(move |_| identity::conditions(&observed.overview()));
        monitor
    }

    /// Adds the metrics of a listener of the program `role`, and shows the last requests that it did not serve.
    pub(crate) fn follow_listener(&self, role: &'static str, shared: &Shared) {
        self.metrics.role(role);
        self.metrics.listener(shared);
        self.shown.refusals(shared.quotas());
    }

    /// Shows that the process listens at `addresses` for these peers.
    pub fn listens(&self, peers: &str, addresses: &str) {
        self.shown.listener(peers, addresses);
    }

    /// Adds the conditions of an upstream's endpoints. `name` distinguishes several upstreams.
    pub fn follow_upstream(&self, name: Option<&str>, status: UpstreamStatus) {
        let prefix = prefix("upstream", name);
        self.conditions
            .add(move |_| upstream::conditions(&prefix, &status.endpoints(), status.unresolved()));
    }

    /// Adds the condition and the metrics of a token. `name` distinguishes several tokens.
    pub fn follow_token(&self, name: Option<&str>, audiences: &[String], token: TokenMonitor) {
        self.metrics.token(audiences, token.clone());
        let prefix = prefix("token", name);
        self.conditions.add(move |now| {
            let status = token.status();
            let condition = status.map(|status| tokens::condition(&prefix, &status, now));
            condition.into_iter().collect()
        });
    }

    /// Notes that the process does its work from now on, unless it is stopping already.
    pub fn serves(&self, what: impl Into<String>) {
        let mut phase = lock(&self.phase);
        if matches!(phase.work, Work::Starting) {
            *phase = Phase::begin(Work::Serving(what.into()));
        }
    }
}

/// Returns the name of a condition, or its beginning.
fn prefix(kind: &str, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("{kind}/{name}"),
        None => kind.to_owned(),
    }
}

impl Phase {
    fn begin(work: Work) -> Self {
        let since = SystemTime::now();
        Self { work, since }
    }

    fn condition(&self) -> Condition {
        let (state, reason) = match &self.work {
            Work::Starting => (State::Lost, "starting"),
            Work::Serving(what) => (State::Met, what.as_str()),
            Work::Draining => (State::Lost, "draining: a stop was requested"),
        };
        Condition::new("serving", state, reason).since(self.since)
    }
}
