//! The SPIFFE Workload API as its user sees it: where it is ([`Address`]), and the live sources of
//! identity that it feeds ([`WorkloadApi`]).
//!
//! Implements the client side of the SPIFFE Workload Endpoint (§4, §6) and Workload API standards.

mod address;
mod error;
mod monitor;
mod probe;
mod readiness;
pub mod tokens;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use spiffe::{JwtSource, JwtSvid, SpiffeId, WorkloadApiClient, WorkloadApiError, X509Source};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use self::monitor::{Event, Events, Monitor, Stream};
pub use self::{
    address::{Address, AddressError},
    error::{Error, Process, Reason},
    readiness::{Degradation, Readiness, Unready},
};

/// How long a source waits between attempts once it has lost the Workload API: the first and the
/// longest wait (the source adds jitter). Short, because an agent that restarts is back within
/// seconds, and may come with other keys.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));

/// A Workload API to take identity from, and how long start-up may wait for it.
#[derive(Clone, Debug)]
pub struct WorkloadApi {
    address: Address,
    startup_timeout: Duration,
    on_agent: Option<AgentHook>,
}

/// Takes the Unix user ID of the agent's process.
pub type AgentHook = fn(u32);

/// What a server needs to prove who it is and to check who calls: both sources, synchronised.
#[derive(Clone, Debug)]
pub struct Identity {
    /// X.509-SVID and X.509 bundles, kept current.
    pub x509: X509Source,
    /// JWT bundles, kept current.
    pub jwt: JwtSource,
    /// Whether they can be used, and for how long.
    pub readiness: watch::Receiver<Readiness>,
}

/// What a process needs that checks no tokens.
#[derive(Clone, Debug)]
pub struct X509Identity {
    /// X.509-SVID and X.509 bundles, kept current.
    pub x509: X509Source,
    /// Whether they can be used, and for how long.
    pub readiness: watch::Receiver<Readiness>,
}

impl WorkloadApi {
    /// A Workload API at `address`, given `startup_timeout` to issue an identity.
    #[must_use]
    pub fn new(address: Address, startup_timeout: Duration) -> Self {
        Self {
            address,
            startup_timeout,
            on_agent: None,
        }
    }

    /// Calls `hook` with the agent's Unix user ID before the first identity is fetched, so that the
    /// process can protect its memory before a key is in it. Over TCP the hook is not called.
    #[must_use]
    pub fn on_agent(mut self, hook: AgentHook) -> Self {
        self.on_agent = Some(hook);
        self
    }

    /// Connects the X.509 source alone; for a process that checks no tokens.
    ///
    /// # Errors
    /// When no identity was issued within the start-up timeout, and why.
    pub async fn x509(&self) -> Result<X509Identity, Error> {
        let deadline = Instant::now() + self.startup_timeout;
        probe::wait_for_identity(&self.address, self.on_agent, deadline).await?;
        let (events, monitor) = mpsc::unbounded_channel();
        let x509 = self.x509_source(&events, deadline).await?;
        let readiness = watch_over(x509.clone(), None, monitor);
        Ok(X509Identity { x509, readiness })
    }

    /// Connects both sources.
    ///
    /// # Errors
    /// When no identity was issued within the start-up timeout, and why.
    pub async fn identity(&self) -> Result<Identity, Error> {
        let deadline = Instant::now() + self.startup_timeout;
        probe::wait_for_identity(&self.address, self.on_agent, deadline).await?;
        let (events, monitor) = mpsc::unbounded_channel();
        let (x509, jwt) = tokio::try_join!(
            self.x509_source(&events, deadline),
            self.jwt_source(&events, deadline)
        )?;
        let readiness = watch_over(x509.clone(), Some(jwt.clone()), monitor);
        Ok(Identity {
            x509,
            jwt,
            readiness,
        })
    }

    /// Fetches a JWT-SVID for all of `audiences`, of the identity `id` or, without it, of the default one.
    ///
    /// # Errors
    /// When the Workload API can't be reached (tried twice), issues nothing, or answers with a token
    /// for another subject or audience than was asked for, or one that has expired.
    pub async fn fetch_jwt_svid(
        &self,
        audiences: &[impl AsRef<str> + Sync],
        id: Option<&SpiffeId>,
    ) -> Result<JwtSvid, Error> {
        let fetch_once = async || {
            let client = WorkloadApiClient::connect(self.address.endpoint()).await?;
            client.fetch_jwt_svid(audiences, id).await
        };
        let fetch = async {
            match fetch_once().await {
                // Once more, on a fresh connection: the first may have met an agent that was stopping.
                Err(error) if error::is_unavailable(&error) => fetch_once().await,
                fetched => fetched,
            }
        };
        let svid = tokio::time::timeout(self.startup_timeout, fetch)
            .await
            .map_err(|_| self.error(Reason::NoAnswer))?
            .map_err(|error| self.error(error.into()))?;
        let same_audiences = svid.audience().len() == audiences.len()
            && audiences
                .iter()
                .all(|asked| svid.audience().iter().any(|given| given == asked.as_ref()));
        let asked = same_audiences && id.is_none_or(|id| id == svid.spiffe_id());
        if !asked || SystemTime::from(svid.expiry()) <= SystemTime::now() {
            return Err(self.error(Reason::WrongToken));
        }
        Ok(svid)
    }

    async fn x509_source(&self, events: &Sender, deadline: Instant) -> Result<X509Source, Error> {
        let events = Arc::new(Events::new(Stream::X509, events.clone()));
        X509Source::builder()
            .client_factory(self.client_factory(&events))
            .metrics(events)
            .reconnect_backoff(RECONNECT.0, RECONNECT.1)
            .initial_sync_timeout(deadline.duration_since(Instant::now()))
            .build()
            .await
            .map_err(|error| self.error(error.into()))
    }

    async fn jwt_source(&self, events: &Sender, deadline: Instant) -> Result<JwtSource, Error> {
        let events = Arc::new(Events::new(Stream::Jwt, events.clone()));
        JwtSource::builder()
            .client_factory(self.client_factory(&events))
            .metrics(events)
            .reconnect_backoff(RECONNECT.0, RECONNECT.1)
            .initial_sync_timeout(deadline.duration_since(Instant::now()))
            .build()
            .await
            .map_err(|error| self.error(error.into()))
    }

    /// The sources' own parser normalises paths and leaves `%20` undecoded, so they get a connected
    /// client instead of an address; and the monitor hears of the connection.
    fn client_factory(&self, events: &Arc<Events>) -> ClientFactory {
        let (endpoint, events) = (self.address.endpoint(), Arc::clone(events));
        Arc::new(move || {
            let (endpoint, events) = (endpoint.clone(), Arc::clone(&events));
            Box::pin(async move {
                let client = WorkloadApiClient::connect(endpoint).await?;
                events.connected();
                Ok(client)
            })
        })
    }

    fn error(&self, reason: Reason) -> Error {
        Error::new(self.address.clone(), reason)
    }
}

/// Where the sources report to.
type Sender = mpsc::UnboundedSender<(Stream, Event)>;

/// Tells in the log what becomes of the sources, from what they report to `events`.
fn watch_over(
    x509: X509Source,
    jwt: Option<JwtSource>,
    events: mpsc::UnboundedReceiver<(Stream, Event)>,
) -> watch::Receiver<Readiness> {
    let (monitor, readiness) = Monitor::new(x509, jwt);
    tokio::spawn(monitor.run(events));
    readiness
}

type ClientFactory = Arc<
    dyn Fn() -> std::pin::Pin<
            Box<dyn Future<Output = Result<WorkloadApiClient, WorkloadApiError>> + Send>,
        > + Send
        + Sync,
>;
