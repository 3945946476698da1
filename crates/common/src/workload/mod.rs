//! The client side of the SPIFFE Workload API.
//!
//! [`WorkloadApi`] connects to an [`Address`] and returns live sources of SVIDs and bundles.
//! [`Readiness`] tells whether they can be used. [`tokens::TokenSource`] keeps a JWT-SVID current.
//!
//! The module implements the SPIFFE Workload Endpoint (§4, §6) and Workload API standards.

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
    probe::AgentHook,
    readiness::{Degradation, Readiness, Unready},
};

/// The first and the longest pause of a source that has lost the Workload API, before jitter. The
/// pauses are short because an agent restarts within seconds and may return with other keys.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));

/// A connection to a Workload API, and the time that start-up may wait for an identity.
#[derive(Clone, Debug)]
pub struct WorkloadApi {
    address: Address,
    startup_timeout: Duration,
    on_agent: Option<AgentHook>,
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
    /// The current X.509-SVID and X.509 bundles.
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
            on_agent: None,
        }
    }

    /// Calls `hook` with the agent's Unix user ID before the first identity is fetched. The process can
    /// then protect its memory before it receives a key. Over TCP the hook is not called.
    #[must_use]
    pub fn on_agent(mut self, hook: AgentHook) -> Self {
        self.on_agent = Some(hook);
        self
    }

    /// Connects the X.509 source, for a process that does not verify tokens.
    ///
    /// # Errors
    /// Fails when no identity is issued within the start-up timeout. The error has the reason.
    pub async fn x509(&self) -> Result<X509Identity, Error> {
        let deadline = Instant::now() + self.startup_timeout;
        probe::wait_for_identity(&self.address, self.on_agent, deadline).await?;
        let (events, monitor) = mpsc::unbounded_channel();
        let x509 = self.x509_source(&events, deadline).await?;
        let readiness = watch_over(x509.clone(), None, monitor);
        Ok(X509Identity { x509, readiness })
    }

    /// Connects the X.509 source and the JWT source.
    ///
    /// # Errors
    /// Fails when no identity is issued within the start-up timeout. The error has the reason.
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

    /// Fetches a JWT-SVID of the identity `id`, or of the default identity, for all of `audiences`.
    ///
    /// # Errors
    /// Fails when the Workload API cannot be reached in two attempts, or issues no token. Also fails when
    /// the token has expired, or is for another subject or audience (Workload API §6.2.1).
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
                // Tries again on a new connection, because the first may have met an agent that stops.
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
                .all(|asked| svid.audience().iter().any(|found| found == asked.as_ref()));
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

    /// Returns a factory of connected clients, which also reports each connection to the monitor. The
    /// sources cannot use the address, because their parser normalises paths and does not decode `%20`.
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

/// The sender of what the sources report.
type Sender = mpsc::UnboundedSender<(Stream, Event)>;

/// Starts the monitor, which logs changes of the sources' state, and returns that state.
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
