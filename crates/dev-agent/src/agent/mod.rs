//! The handle on a running agent: it starts and stops the agent, and changes everything that a test
//! may want to see change.

mod federation;

use std::{
    convert::Infallible,
    fmt, fs, io,
    path::{Path, PathBuf, absolute},
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{Request, Response};
use spiffe::{SpiffeId, TrustDomain};
use tokio::{
    net::UnixStream,
    sync::Mutex,
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::body::Body;
use tower_service::Service;
use tracing::{info, warn};

use crate::{
    attest::{Attestor, PeerProcess},
    config::Config,
    endpoint::Endpoints,
    entry::Entry,
    error::Error,
    federation::follow::Followers,
    jwt::JwtClaims,
    listen::{Access, SocketFile},
    rotate,
    selector::Selector,
    serve,
    service::WorkloadApi,
    state::State,
    status::{Phase, Status},
};

/// The time that [`DevAgent::stop`] gives callers to read their last message.
const DRAIN: Duration = Duration::from_secs(2);

/// A running agent. Dropping the handle stops the agent and removes its socket.
///
/// A change is in effect when its method returns: later calls of workloads see it, and open streams
/// get a message. [`Self::rotate_ca_with_lead`], [`Self::rotate_jwt_key_with_lead`] and
/// [`Self::refresh`] wait before the change. [`Self::federate_with`] returns before the first fetch.
///
/// A rotation, withdrawal or restoration that fails changes nothing, and the log says why. It fails only if
/// the cryptographic library does. A rotation with lead also fails if its key is replaced meanwhile, by another
/// rotation or a restart with new keys.
///
/// ```
/// use dev_agent::{Config, DevAgent};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let directory = tempfile::tempdir()?;
/// let entry = "spiffe://example.org/server=unix:uid:0".parse()?;
/// let config = Config::new(directory.path().join("agent.sock"), vec![entry]);
/// let agent = DevAgent::start(config).await?;
/// assert!(agent.endpoint().starts_with("unix:///"));
/// agent.rotate_x509();
/// agent.stop().await;
/// # Ok(())
/// # }
/// ```
pub struct DevAgent {
    socket: PathBuf,
    pub(crate) state: Arc<State>,
    attestor: Arc<Attestor>,
    endpoints: Endpoints,
    followers: Followers,
    /// The rotation timers, which continue while the agent is stopped.
    _timers: JoinSet<()>,
    running: Mutex<Option<Running>>,
}

struct Running {
    // The file is dropped first, because it is certainly ours only while we listen.
    file: SocketFile,
    server: JoinSet<()>,
}

impl DevAgent {
    /// Makes fresh keys and starts the agent on the current tokio runtime. The agent listens when
    /// this returns.
    ///
    /// # Errors
    /// Fails when a setting is refused or the socket can't be used.
    pub async fn start(mut config: Config) -> Result<Self, Error> {
        config.warn();
        warn!(
            "dev-agent is for development only: one process is CA and agent, there is no node attestation, and a restart makes new keys; root on this machine can get any identity"
        );
        config.socket = absolute(&config.socket).map_err(|source| Error::Listen {
            path: config.socket.clone(),
            source,
        })?;
        check_paths(&config.entries)?;
        let state = Arc::new(State::new(config)?);
        let endpoints = Endpoints::start(&state).await?;
        let followers = Followers::start(&state);
        let mut timers = JoinSet::new();
        timers.spawn(rotate::rotate(Arc::clone(&state)));
        let agent = Self {
            socket: state.config.socket.clone(),
            attestor: Arc::new(Attestor::new(&state.config.entries)),
            state,
            endpoints,
            followers,
            _timers: timers,
            running: Mutex::new(None),
        };
        agent.listen().await?;
        Ok(agent)
    }

    /// Returns the path of the socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns the socket as a Workload API address: `unix:///…`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Returns the trust domain of all entries.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.state.trust_domain
    }

    /// Issues every X.509-SVID again, under the same CA.
    pub fn rotate_x509(&self) {
        self.state.reissue();
    }

    /// Publishes a new CA that signs nothing until [`Self::rotate_ca`]. This is the first half of a
    /// rotation that interrupts no workload.
    pub fn prepare_ca(&self) {
        self.state.prepare_ca();
    }

    /// Publishes a new CA, unless one is prepared, and issues every X.509-SVID again under it. The
    /// old CA stays in the bundle until [`Self::drop_old_ca`].
    pub fn rotate_ca(&self) {
        if let Some(ca) = self.state.prepare_ca() {
            self.state.activate_ca(&ca, None);
        }
    }

    /// Rotates the CA with `lead` between the two halves, so that each workload knows the new CA
    /// before it gets an SVID under it. Returns the new CA's name, or `None` if the CA is not in
    /// use in the end. Then the log says why.
    pub async fn rotate_ca_with_lead(&self, lead: Duration) -> Option<String> {
        let ca = self.state.prepare_ca()?;
        sleep(lead).await;
        self.state.activate_ca(&ca, None)?;
        Some(ca.name.clone())
    }

    /// Removes all CAs from the bundle except the current and the next one.
    pub fn drop_old_ca(&self) {
        self.state.drop_old_ca();
    }

    /// Publishes a new JWT key that signs nothing until [`Self::rotate_jwt_key`].
    pub fn prepare_jwt_key(&self) {
        self.state.prepare_jwt_key();
    }

    /// Publishes a new JWT key, unless one is prepared, and signs with it from now on. The old key
    /// stays in the bundle until [`Self::drop_old_jwt_key`].
    pub fn rotate_jwt_key(&self) {
        if let Some(key) = self.state.prepare_jwt_key() {
            self.state.activate_jwt_key(&key, None);
        }
    }

    /// Rotates the JWT key with `lead` between the two halves, so that each workload knows the new
    /// key before it gets a token of it. Returns the new key's ID, or `None` if the key is not in
    /// use in the end. Then the log says why.
    pub async fn rotate_jwt_key_with_lead(&self, lead: Duration) -> Option<String> {
        let key = self.state.prepare_jwt_key()?;
        sleep(lead).await;
        self.state.activate_jwt_key(&key, None)?;
        Some(key.id.clone())
    }

    /// Removes all JWT keys from the bundle except the current and the next one.
    pub fn drop_old_jwt_key(&self) {
        self.state.drop_old_jwt_key();
    }

    /// Withdraws all entries of this SPIFFE ID. An open stream gets a message without them, or ends
    /// with PermissionDenied if the caller has no other entry.
    pub fn withdraw(&self, id: &SpiffeId) {
        self.state.set_withdrawn(id, true);
    }

    /// Restores the entries of this SPIFFE ID.
    pub fn restore(&self, id: &SpiffeId) {
        self.state.set_withdrawn(id, false);
    }

    /// Lets callers wait: open streams stay silent, and new calls get no answer. A stopped agent
    /// stays stopped.
    pub fn stall(&self) {
        self.set_stalled(true);
    }

    /// Answers again, waiting callers included. A stopped agent stays stopped.
    pub fn unstall(&self) {
        self.set_stalled(false);
    }

    fn set_stalled(&self, stalled: bool) {
        if let Err(error) = self.state.set_stalled(stalled) {
            warn!(%error, "cannot stall or unstall the agent");
        }
    }

    /// Returns the current status of the agent.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            partners: self.followers.status(),
            bundle_endpoint: self.endpoints.bundle_status(),
            oidc_endpoint: self.endpoints.oidc_status(),
            ..self.state.status(&self.socket)
        }
    }

    /// Stops listening: removes the socket, and ends open streams with Unavailable. Waits for callers to
    /// read that, for at most two seconds. Timers and HTTPS endpoints continue. A stopped agent stays
    /// stopped.
    pub async fn stop(&self) {
        let Some(Running { file, mut server }) = self.running.lock().await.take() else {
            return;
        };
        drop(file);
        self.state.set_phase(Phase::Stopped);
        if timeout(DRAIN, server.join_next()).await.is_err() {
            info!("a caller did not read its last message in {DRAIN:?}");
        }
    }

    /// Stops the agent and starts it again on the same socket, with the same keys.
    ///
    /// # Errors
    /// Fails when the socket can't be used. Then the agent is stopped.
    pub async fn restart(&self) -> Result<(), Error> {
        self.stop().await;
        self.listen().await
    }

    /// Restarts the agent with fresh keys, as a killed agent starts again. All SVIDs that it ever
    /// issued stop being valid.
    ///
    /// # Errors
    /// Fails like [`Self::restart`].
    pub async fn restart_with_new_keys(&self) -> Result<(), Error> {
        self.stop().await;
        self.state.replace_keys()?;
        self.listen().await
    }

    /// Returns the parts of the JWT-SVID that the agent would issue now for this subject and
    /// audience. A test changes them and passes them to [`Self::mint_jwt`].
    #[must_use]
    pub fn jwt_claims(&self, subject: &str, audience: &[&str]) -> JwtClaims {
        let audience: Vec<_> = audience.iter().map(|&a| a.to_owned()).collect();
        let ttl = self.state.config.jwt_ttl;
        let issuer = self.state.config.jwt_issuer.as_deref();
        let snapshot = self.state.snapshot();
        snapshot
            .jwt_key
            .claims(issuer, subject, &audience, ttl, SystemTime::now())
    }

    /// Signs `claims` with the current key and checks nothing, for tests of verifiers.
    ///
    /// # Panics
    /// Panics if the cryptographic library fails.
    #[must_use]
    pub fn mint_jwt(&self, claims: &JwtClaims) -> String {
        let key = &self.state.snapshot().jwt_key;
        key.sign(claims)
            .expect("signing with a P-256 key has no reason to fail")
    }

    /// Returns the JWK Set of the own trust domain, as workloads get it.
    #[must_use]
    pub fn jwks(&self) -> String {
        let snapshot = self.state.snapshot();
        let own = self.trust_domain().id_string();
        String::from_utf8_lossy(&snapshot.jwt_bundles[&own]).into_owned()
    }

    /// Returns the CA certificates of the own trust domain in PEM, the current one first.
    #[must_use]
    pub fn x509_bundle_pem(&self) -> String {
        self.state.roots_pem()
    }

    /// Returns the Workload API as the process at the other end of `stream` sees it, without a
    /// connection in between. Its rate limit counts only that caller's calls.
    ///
    /// # Errors
    /// Fails when the kernel does not say which process that is.
    pub fn service(
        &self,
        stream: &UnixStream,
    ) -> io::Result<
        impl Service<Request<Body>, Response = Response<Body>, Error = Infallible> + use<>,
    > {
        Ok(serve::service(WorkloadApi {
            state: Arc::clone(&self.state),
            attestor: Arc::new(Attestor::new(&self.state.config.entries)),
            peer: PeerProcess::of(stream)?,
        }))
    }

    /// Starts to listen and to serve.
    async fn listen(&self) -> Result<(), Error> {
        let mut running = self.running.lock().await;
        if running.is_some() {
            return Err(Error::Running);
        }
        let (file, listener) = SocketFile::bind(&self.socket, Access::All).await?;
        self.state.set_phase(Phase::Serving);
        let mut server = JoinSet::new();
        server.spawn(serve::serve(
            listener,
            Arc::clone(&self.state),
            Arc::clone(&self.attestor),
        ));
        *running = Some(Running { file, server });
        info!("listening on {}", self.endpoint());
        Ok(())
    }
}

impl fmt::Debug for DevAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DevAgent")
            .field("endpoint", &self.endpoint())
            .field("trust_domain", self.trust_domain())
            .finish_non_exhaustive()
    }
}

/// Refuses paths of binaries that are not spelled as the kernel spells them.
///
/// The kernel reports a binary under its real path, so another spelling would never match. A path that
/// does not exist is accepted, because the binary may be built later.
fn check_paths(entries: &[Entry]) -> Result<(), Error> {
    for entry in entries {
        for selector in entry.selectors() {
            if let Selector::Path(path) = selector
                && let Ok(real) = fs::canonicalize(path)
                && real.as_os_str() != path
            {
                let real = real.display();
                return Err(Error::entry(
                    entry.to_string(),
                    format!("the kernel knows this binary as 'unix:path:{real}'; use that"),
                ));
            }
        }
    }
    Ok(())
}
