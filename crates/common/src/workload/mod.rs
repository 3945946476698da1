//! The client side of the SPIFFE Workload API.
//!
//! [`WorkloadApi`] connects to an [`Address`] and returns live sources of SVIDs and bundles.
//! [`Readiness`] tells whether they can be used, and a [`Monitor`] has the details.
//! [`tokens::TokenSource`] keeps a JWT-SVID current.
//!
//! The module implements the SPIFFE Workload Endpoint (§4, §6) and Workload API standards.
//!
//! # Limits of a message
//!
//! A message has at most 16 MiB, 10,000 X.509-SVIDs and 10,000 trust domains. Beyond that it is refused as
//! a whole, and the log has both numbers. Everything else that cannot be used affects itself only: a key,
//! the bundle of one trust domain, or the X.509-SVID.
//!
//! # Trust, and how long it lasts
//!
//! The last good message is in use. If no later one comes:
//!
//! - While the Workload API is away, the SVID and the bundles stay in use until the X.509-SVID expires.
//! - If messages come and cannot be used, or one stream fails while another one works, the bundles before
//!   them stay in use. They do so for [`DEFAULT_BUNDLE_GRACE`], and not after the X.509-SVID expires. The
//!   same holds for the bundle of one trust domain, and for a process that fetches no X.509-SVID.
//! - The X.509-SVID itself is presented until it expires, because its peers decide on it.
//! - After a withdrawal, nothing that the stream delivered is used. An identity that is missing among others
//!   is withdrawn if it is still missing after 10 s.
//!
//! After that time, tokens and peers are refused, and [`Readiness`] is [`Readiness::NotReady`].
//!
//! # Alternatives
//!
//! The `spiffe` crate (0.19) has an `X509Source` and a `JwtSource` that follow the same streams. This module uses its
//! IDs, SVIDs and X.509 bundles. Its sources do not serve, for these reasons:
//!
//! - One unusable bundle rejects the whole message. A fault of one federated trust domain, or of one key, would
//!   therefore stop the updates of all others.
//! - Bundles that the agent does not renew stay trusted without an end. They do so here for
//!   [`DEFAULT_BUNDLE_GRACE`], or until the X.509-SVID expires.
//! - An identity that is missing from one message is lost, or another one takes its place. SPIRE's agent sends such
//!   messages while it replaces tainted SVIDs.
//! - Each token is fetched when it is needed. [`tokens::TokenSource`] renews it at half of its life, so that it
//!   outlasts an outage.
//! - The two sources have two connections and two states. [`Readiness`] is one state of both.
//!
//! These rules take about 4,500 lines, and their unit tests 1,200.

mod absence;
mod address;
mod apply;
mod choice;
mod connection;
mod counts;
mod domains;
mod error;
mod fault;
mod fetch;
mod follow;
mod jwt;
mod keeper;
mod link;
mod look;
mod monitor;
mod readiness;
mod report;
mod running;
mod seen;
pub mod tokens;
mod x509;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tracing::info;

pub(crate) use self::x509::Trust;
pub use self::{
    address::{Address, AddressError},
    choice::{Choice, NotIssued},
    connection::{AgentHook, Stream},
    counts::Counts,
    error::{Error, Process, Reason},
    fault::{BundleFault, Kind},
    jwt::JwtSource,
    look::{AgentProcess, Issued, IssuedId},
    monitor::{Authority, Monitor, Overview, StreamState, StreamStatus},
    readiness::{Degradation, Readiness, Unready},
    x509::{SvidFault, Unavailable, X509Source, X509Svid},
};
use self::{
    follow::{Agent, Follower},
    keeper::{Keeper, Published},
    running::Running,
};

/// The default of [`WorkloadApi::bundle_grace`].
pub const DEFAULT_BUNDLE_GRACE: Duration = Duration::from_secs(60 * 60);

/// The longest grace. Its sum with a time of the clock must not overflow.
const MAX_BUNDLE_GRACE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The events that may wait. The keeper takes them at once, and a stream may wait for it.
const MAX_EVENTS: usize = 8;

/// A connection to a Workload API, and the time that start-up may wait for an identity.
#[derive(Clone, Debug)]
pub struct WorkloadApi {
    address: Address,
    startup_timeout: Duration,
    bundle_grace: Duration,
    is_once: bool,
    choice: Choice,
    on_agent: Option<AgentHook>,
    monitor: Option<Monitor>,
}

/// The identity of a process that also verifies tokens: both sources, each with its first update.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The current X.509-SVID and X.509 bundles.
    pub x509: X509Source,
    /// The current JWT bundles.
    pub jwt: JwtSource,
    /// The state of the identity, and how long it lasts.
    pub readiness: watch::Receiver<Readiness>,
}

/// The identity of a process that does not verify tokens.
#[derive(Clone, Debug)]
pub struct X509Identity {
    /// The current X.509 bundles, and the X.509-SVID if one is fetched.
    pub x509: X509Source,
    /// The state of the identity, and how long it lasts.
    pub readiness: watch::Receiver<Readiness>,
}

impl WorkloadApi {
    /// Returns a Workload API at `address` that has `startup_timeout` to issue an identity. No
    /// connection is made yet.
    #[must_use]
    pub fn new(address: Address, startup_timeout: Duration) -> Self {
        Self {
            address,
            startup_timeout,
            bundle_grace: DEFAULT_BUNDLE_GRACE,
            is_once: false,
            choice: Choice::default(),
            on_agent: None,
            monitor: None,
        }
    }

    /// Returns the address.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Calls `hook` with the agent's Unix user ID before anything is fetched. The process can then
    /// protect its memory before it receives a key. Over TCP the hook is not called.
    #[must_use]
    pub fn on_agent(mut self, hook: AgentHook) -> Self {
        self.on_agent = Some(hook);
        self
    }

    /// Tells `monitor` the state of what the sources from now on deliver, and what they wait for.
    #[must_use]
    pub fn monitored(mut self, monitor: Monitor) -> Self {
        self.monitor = Some(monitor);
        self
    }

    /// Chooses the identity, if the Workload API issues several.
    #[must_use]
    pub fn choose(mut self, choice: Choice) -> Self {
        self.choice = choice;
        self
    }

    /// Sets how long bundles stay in use after a message that should have replaced them and cannot be
    /// used. A year is the longest time.
    #[must_use]
    pub fn bundle_grace(mut self, grace: Duration) -> Self {
        self.bundle_grace = grace.min(MAX_BUNDLE_GRACE);
        self
    }

    /// Fails with the first error of the Workload API instead of waiting for it to pass. Only an agent that
    /// does not answer yet has the whole start-up timeout.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.is_once = true;
        self
    }

    /// Connects the X.509 source, for a process that does not verify tokens.
    ///
    /// # Errors
    /// Fails when no identity is issued within the start-up timeout. The error has the reason.
    pub async fn x509(&self) -> Result<X509Identity, Error> {
        let identity = self.follow(&[Stream::X509Svids]).await?;
        Ok(identity.into())
    }

    /// Connects an X.509 source that has bundles only, for a process that verifies peers and presents no
    /// certificate.
    ///
    /// # Errors
    /// Fails when no bundles come within the start-up timeout. The error has the reason.
    pub async fn x509_bundles(&self) -> Result<X509Identity, Error> {
        let identity = self.follow(&[Stream::X509Bundles]).await?;
        Ok(identity.into())
    }

    /// Connects the JWT source, for a process that neither verifies peers nor presents a certificate.
    ///
    /// # Errors
    /// Fails when no bundles come within the start-up timeout. The error has the reason.
    pub async fn jwt_bundles(&self) -> Result<JwtSource, Error> {
        let identity = self.follow(&[Stream::JwtBundles]).await?;
        Ok(identity.jwt)
    }

    /// Connects the X.509 source and the JWT source.
    ///
    /// # Errors
    /// Fails when no identity is issued within the start-up timeout. The error has the reason.
    pub async fn identity(&self) -> Result<Identity, Error> {
        self.follow(&[Stream::X509Svids, Stream::JwtBundles]).await
    }

    /// Follows these streams, and waits until all have delivered.
    async fn follow(&self, streams: &[Stream]) -> Result<Identity, Error> {
        let deadline = Instant::now() + self.startup_timeout;
        let mut tasks = JoinSet::new();
        let (sender, mut events) = mpsc::channel(MAX_EVENTS);
        for stream in streams {
            let follower = Follower {
                agent: self.agent(),
                stream: *stream,
                events: sender.clone(),
            };
            tasks.spawn(follower.run());
        }
        let (mut keeper, published) = Keeper::new(
            streams,
            self.choice.clone(),
            self.bundle_grace,
            self.monitor.clone(),
        );
        let address = &self.address;
        let waiting = |reason: &Reason| {
            let waits = self.waits_for(reason);
            if waits {
                info!(%address, %reason, "waiting for an identity from the Workload API");
            }
            waits
        };
        let started = keeper.start(&mut events, deadline, waiting).await;
        started.map_err(|reason| self.error(reason))?;
        tasks.spawn(keeper.run(events));
        Ok(Identity::of(published, tasks))
    }

    /// Returns whether a start waits for this reason to pass.
    fn waits_for(&self, reason: &Reason) -> bool {
        if self.is_once {
            matches!(reason, Reason::NoAnswer)
        } else {
            reason.is_transient()
        }
    }

    fn agent(&self) -> Agent {
        Agent {
            address: self.address.clone(),
            hook: self.on_agent,
        }
    }

    fn error(&self, reason: Reason) -> Error {
        Error::new(self.address.clone(), reason)
    }
}

impl Identity {
    fn of(published: Published, tasks: JoinSet<()>) -> Self {
        let keeper = Arc::new(Running::new(tasks));
        Self {
            x509: X509Source {
                state: published.x509,
                _keeper: Arc::clone(&keeper),
            },
            jwt: JwtSource {
                state: published.jwt,
                _keeper: keeper,
            },
            readiness: published.readiness,
        }
    }
}

impl From<Identity> for X509Identity {
    fn from(identity: Identity) -> Self {
        let Identity {
            x509, readiness, ..
        } = identity;
        Self { x509, readiness }
    }
}
