//! The handle on a running agent: starts and stops it, and moves everything
//! that a test may want to see move.

use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Request, Response};
use spiffe::{SpiffeId, TrustDomain};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::body::Body;
use tower_service::Service;

use crate::attest::{Attestor, Peer};
use crate::config::Config;
use crate::entry::Entry;
use crate::error::Error;
use crate::federation::FederatedBundle;
use crate::jwt::JwtClaims;
use crate::listen::{Access, SocketFile};
use crate::selector::Selector;
use crate::service::WorkloadApi;
use crate::state::status::Status;
use crate::state::{Phase, State};
use crate::{rotate, serve};

/// How long [`DevAgent::stop`] lets callers read their last message.
const DRAIN: Duration = Duration::from_secs(2);

/// A running agent. Dropping it stops it and removes its socket.
///
/// All calls but those that wait take effect at once: what is asked of the
/// agent after a call is answered accordingly, and open streams get a message.
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
    /// The timers; they go on while the agent is stopped.
    _timers: JoinSet<()>,
    running: Mutex<Option<Running>>,
}

struct Running {
    // Dropped first: the file's identity is certain only while we listen.
    file: SocketFile,
    server: JoinSet<()>,
}

impl DevAgent {
    /// Makes fresh keys and starts the agent; it is listening when this returns.
    /// It runs on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// A setting that is refused, or a socket that cannot be used.
    pub async fn start(mut config: Config) -> Result<Self, Error> {
        tracing::warn!(
            "dev-agent is for development only: its keys are made at start and kept in memory, and anybody with root on this machine can be anybody"
        );
        config.socket = absolute(&config.socket).map_err(|source| Error::Listen {
            path: config.socket.clone(),
            source,
        })?;
        check_paths(&config.entries)?;
        let state = Arc::new(State::new(config)?);
        let mut timers = JoinSet::new();
        timers.spawn(rotate::rotate(state.clone()));
        let agent = Self {
            socket: state.config.socket.clone(),
            attestor: Arc::new(Attestor::new(&state.config.entries)),
            state,
            _timers: timers,
            running: Mutex::new(None),
        };
        agent.listen().await?;
        Ok(agent)
    }

    /// The path of the socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The socket as a Workload API address: `unix:///…`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The trust domain of all entries.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.state.trust_domain
    }

    /// Issues every X.509-SVID anew, under the same CA.
    pub fn rotate_x509(&self) {
        self.state.reissue();
    }

    /// Publishes a new CA that signs nothing until [`Self::rotate_ca`]: the first
    /// half of a rotation that no workload notices.
    pub fn prepare_ca(&self) {
        self.state.prepare_ca();
    }

    /// Publishes a new CA, unless one is prepared, and issues every X.509-SVID anew
    /// under it. The old CA stays in the bundle until [`Self::drop_old_ca`].
    pub fn rotate_ca(&self) {
        if let Some(ca) = self.state.prepare_ca() {
            self.state.activate_ca(&ca, None);
        }
    }

    /// The same with `lead` between the two halves, so that no workload notices: each knows
    /// the new CA before it meets an SVID under it. The new CA's name; `None` if it is not in
    /// use in the end, and then the log says why.
    pub async fn rotate_ca_with_lead(&self, lead: Duration) -> Option<String> {
        let ca = self.state.prepare_ca()?;
        sleep(lead).await;
        let used = self.state.activate_ca(&ca, None)?;
        used.then(|| ca.name.clone())
    }

    /// Takes all CAs but the one in use out of the bundle.
    pub fn drop_old_ca(&self) {
        self.state.drop_old_ca();
    }

    /// Publishes a new JWT key that signs nothing until [`Self::rotate_jwt_key`].
    pub fn prepare_jwt_key(&self) {
        self.state.prepare_jwt_key();
    }

    /// Publishes a new JWT key, unless one is prepared, and signs with it from now
    /// on. The old key stays in the bundle until [`Self::drop_old_jwt_key`].
    pub fn rotate_jwt_key(&self) {
        if let Some(key) = self.state.prepare_jwt_key() {
            self.state.activate_jwt_key(&key, None);
        }
    }

    /// The same with `lead` between the two halves, so that no workload notices: each knows
    /// the new key before it meets a token of it. The new key's ID; `None` if it is not in use
    /// in the end, and then the log says why.
    pub async fn rotate_jwt_key_with_lead(&self, lead: Duration) -> Option<String> {
        let key = self.state.prepare_jwt_key()?;
        sleep(lead).await;
        let used = self.state.activate_jwt_key(&key, None)?;
        used.then(|| key.id.clone())
    }

    /// Takes all JWT keys but the one in use out of the bundle.
    pub fn drop_old_jwt_key(&self) {
        self.state.drop_old_jwt_key();
    }

    /// Puts all entries of this SPIFFE ID out of force. An open stream gets a
    /// message without it, or ends with PermissionDenied if it was the last one.
    pub fn withdraw(&self, id: &SpiffeId) {
        self.state.set_withdrawn(id, true);
    }

    /// Puts the entries of this SPIFFE ID back in force.
    pub fn restore(&self, id: &SpiffeId) {
        self.state.set_withdrawn(id, false);
    }

    /// Replaces the trust bundles of other trust domains.
    ///
    /// # Errors
    ///
    /// Bundles that do not go together, or one of the own trust domain; then
    /// nothing changes.
    pub fn set_federated(&self, bundles: Vec<FederatedBundle>) -> Result<(), Error> {
        self.state.federate(|current| *current = bundles)
    }

    /// Adds the trust bundle of another trust domain, or replaces it.
    ///
    /// # Errors
    ///
    /// As [`Self::set_federated`].
    pub fn federate(&self, bundle: FederatedBundle) -> Result<(), Error> {
        self.state.federate(|current| {
            current.retain(|other| other.trust_domain() != bundle.trust_domain());
            current.push(bundle);
        })
    }

    /// Takes the trust bundle of another trust domain away; says whether there was one.
    pub fn unfederate(&self, trust_domain: &TrustDomain) -> bool {
        let removed = self.state.federate(|current| {
            let before = current.len();
            current.retain(|bundle| bundle.trust_domain() != trust_domain);
            current.len() != before
        });
        // Fewer bundles than were accepted are accepted too.
        removed.unwrap_or_default()
    }

    /// Lets callers wait: open streams stay silent, new calls get no answer. No effect on an
    /// agent that is stopped.
    pub fn stall(&self) {
        self.set_stalled(true);
    }

    /// Answers again, and first of all those who waited. No effect on an agent that is stopped.
    pub fn unstall(&self) {
        self.set_stalled(false);
    }

    fn set_stalled(&self, stalled: bool) {
        if let Err(error) = self.state.set_stalled(stalled) {
            tracing::warn!(%error, "neither stalled nor unstalled");
        }
    }

    /// What the agent says about itself now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.state.status(&self.socket)
    }

    /// Stops listening: the socket is removed and open streams end with
    /// Unavailable. No effect on an agent that is stopped.
    pub async fn stop(&self) {
        let Some(Running { file, mut server }) = self.running.lock().await.take() else {
            return;
        };
        drop(file);
        self.state.set_phase(Phase::Stopped);
        if timeout(DRAIN, server.join_next()).await.is_err() {
            tracing::info!("a caller did not read its last message in {DRAIN:?}");
        }
    }

    /// Stops the agent and starts it again on the same socket, with the same keys.
    ///
    /// # Errors
    ///
    /// A socket that cannot be used; the agent is stopped then.
    pub async fn restart(&self) -> Result<(), Error> {
        self.stop().await;
        self.listen().await
    }

    /// The same with fresh keys, as an agent that was killed and started again:
    /// all SVIDs that it ever issued stop being valid.
    ///
    /// # Errors
    ///
    /// As [`Self::restart`].
    pub async fn restart_with_new_keys(&self) -> Result<(), Error> {
        self.stop().await;
        self.state.replace_keys()?;
        self.listen().await
    }

    /// The parts of the JWT-SVID that the agent would issue now for this subject
    /// and audience, to be changed and given to [`Self::mint_jwt`].
    #[must_use]
    pub fn jwt_claims(&self, subject: &str, audience: &[&str]) -> JwtClaims {
        let audience: Vec<_> = audience.iter().map(|&a| a.to_owned()).collect();
        let ttl = self.state.config.jwt_ttl;
        let snapshot = self.state.snapshot();
        snapshot
            .jwt_key
            .claims(subject, &audience, ttl, SystemTime::now())
    }

    /// Signs a token with the current key, as it is: for tests of verifiers.
    ///
    /// # Panics
    ///
    /// Only if the cryptographic library fails.
    #[must_use]
    pub fn mint_jwt(&self, claims: &JwtClaims) -> String {
        let key = &self.state.snapshot().jwt_key;
        key.sign(claims)
            .expect("signing with a P-256 key has no reason to fail")
    }

    /// The JWK Set of the own trust domain, as workloads get it.
    #[must_use]
    pub fn jwks(&self) -> String {
        let snapshot = self.state.snapshot();
        let own = self.trust_domain().id_string();
        String::from_utf8_lossy(&snapshot.jwt_bundles[&own]).into_owned()
    }

    /// The CA certificates of the own trust domain in PEM, the one in use first.
    #[must_use]
    pub fn x509_bundle_pem(&self) -> String {
        self.state.roots_pem()
    }

    /// The own trust bundle, to hand to an agent of another trust domain.
    ///
    /// # Panics
    ///
    /// Never: the agent reads what it writes.
    #[must_use]
    pub fn federation(&self) -> FederatedBundle {
        let document = self.state.bundle_document();
        FederatedBundle::parse(self.trust_domain().clone(), &document)
            .expect("our own bundle document is well-formed")
    }

    /// The Workload API as the process at the other end of `stream` sees it, without a connection in
    /// between. It counts that caller's calls by itself.
    ///
    /// # Errors
    ///
    /// When the kernel does not say who that is.
    pub fn service(
        &self,
        stream: &UnixStream,
    ) -> io::Result<
        impl Service<Request<Body>, Response = Response<Body>, Error = Infallible> + use<>,
    > {
        Ok(serve::service(WorkloadApi {
            state: self.state.clone(),
            attestor: Arc::new(Attestor::new(&self.state.config.entries)),
            peer: Peer::of(stream)?,
        }))
    }

    async fn listen(&self) -> Result<(), Error> {
        let mut running = self.running.lock().await;
        if running.is_some() {
            return Err(Error::Running);
        }
        let (file, listener) = SocketFile::bind(&self.socket, Access::Everybody).await?;
        self.state.set_phase(Phase::Serving);
        let mut server = JoinSet::new();
        server.spawn(serve::serve(
            listener,
            self.state.clone(),
            self.attestor.clone(),
        ));
        *running = Some(Running { file, server });
        tracing::info!("listening on {}", self.endpoint());
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

/// The kernel reports a binary under its one real path, so an entry with another
/// spelling of it would never match.
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
