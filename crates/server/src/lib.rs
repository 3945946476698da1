//! The server of the scenario. It presents its X.509-SVID, authenticates each request by the
//! JWT-SVID in its bearer token, and serves `/` or forwards to an application.
//!
//! - [`config`], [`policy`], [`upstream`]: flags and environment, typed
//! - [`run`]: serves on one core; a test can run it in its own process, on port 0
//! - `confinement`: the files and ports that the flags name
//! - `application`: the answer to a request that is let through; `refusals`: the answer to the others
//! - `doctor`: the steps of `--doctor`
//! - `cores`: all cores until the end, and their log lines
//! - `lifetime`: the end of streams with the credential that began them
//! - [`ext_authz`]: answers a gateway's checks instead of serving requests
//!
//! [`JwtSvidLayer`] does the authentication; this crate shows its use.

mod application;
pub mod config;
mod confinement;
mod cores;
mod doctor;
pub mod ext_authz;
mod lifetime;
pub mod policy;
mod refusals;
pub mod upstream;

use std::{
    process::ExitCode,
    sync::{Arc, atomic::AtomicU64},
};

use common::{
    bearer::{Authenticator, Enforcement, JwtSvidLayer, Pattern, Rules},
    tls,
    workload::{Identity, X509Source},
};
use forward::outbound::Upstream;
use http::request;
use process::{
    admin::Admin,
    bundles, cli,
    listen::{Inherited, ListenAddress},
    policy::PolicyFile,
    service::{Claim, Service},
};
use rustls::ServerConfig;
use serve::{
    ServiceHandler, Shared, listen::Listener, peer::Peer, shutdown::Shutdown, spans::Recorded,
};
use spiffe::SpiffeId;
use tower::{Layer, service_fn};

use crate::{
    application::Application,
    config::{Config, ROLE},
    cores::{StartLog, serve_on_cores},
    policy::LivePolicy,
    refusals::Refusals,
};
pub use crate::{application::Forwarding, lifetime::StreamLifetime, refusals::answer_refusal};

/// Everything that a core serves with. All cores share it.
#[derive(Clone, Debug)]
pub struct Server {
    /// Presents the X.509-SVID, and may request a certificate.
    pub tls: Arc<ServerConfig>,
    /// Set if the certificate's SPIFFE ID is the caller's where a request has no token.
    pub takes_certificates: bool,
    /// Decides which requests are let through.
    pub authenticator: Arc<Authenticator>,
    /// The effect of its refusals.
    pub enforcement: Enforcement,
    /// The number of requests that were let through and would have been refused.
    pub observed: Arc<AtomicU64>,
    /// The application that requests are forwarded to; `None` for the built-in answer.
    pub forwarding: Option<Forwarding>,
    /// The deadlines and bounds, the counts under these bounds, and the quotas of log lines.
    pub shared: Shared,
}

/// The parts of a server that its flags give without the Workload API.
struct Parts {
    upstream: Option<Upstream>,
    policy: Option<(PolicyFile, Rules)>,
}

/// Connects to the Workload API, listens, and serves until a signal arrives.
///
/// # Errors
/// Fails when no identity is issued, or when there is nothing to listen on.
pub async fn start(config: Config, inherited: Inherited) -> anyhow::Result<ExitCode> {
    let own = config.identity.chosen_id();
    if let Some(status) = config
        .policy
        .print_answer::<Config>(own, &config.audience)?
    {
        return Ok(status);
    }
    if config.doctor.doctor {
        return doctor::run(&config, inherited).await;
    }
    match config.ext_authz.address() {
        Ok(Some(address)) => return ext_authz::start(&config, address, inherited).await,
        Ok(None) => {}
        Err(error) => return cli::usage_error::<Config>(&error),
    }
    match Parts::of(&config) {
        Ok(parts) => serve_requests(&config, parts, inherited).await,
        Err(error) => cli::usage_error::<Config>(&error),
    }
}

/// Listens, and serves requests until a signal arrives.
async fn serve_requests(
    config: &Config,
    parts: Parts,
    inherited: Inherited,
) -> anyhow::Result<ExitCode> {
    let policy = LivePolicy::begin(parts.policy)?;
    let address = ListenAddress::from(config.listen);
    let files = config.application.open_files(config.serve.cores());
    let listen = address.of_flag("--listen");
    let claim = Claim {
        role: ROLE,
        listen,
        others: files.as_slice(),
        recorded: Recorded::Verified,
    };
    let service = Service::claim(&config.serve, inherited, claim)?;
    let workload_api = service.follow_workload_api(&config.identity);
    let Some(identity) = service.identity(workload_api.identity()).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let own = identity.x509.svid()?.spiffe_id().clone();
    let server = Server::new(config, &service, identity, &own, parts.upstream, policy)?;
    server.show_in(service.admin());
    let forwarding = server.forwarding.as_ref();
    let log = StartLog {
        spiffe_id: &own,
        application: forwarding.map(|one| one.upstream.to_string()),
        purpose: "",
        enforcement: server.enforcement,
        observed: Arc::clone(&server.observed),
    };
    let core = move |listener, shutdown| run(listener, server.clone(), shutdown);
    serve_on_cores(service, log, core).await
}

impl Parts {
    /// Checks the flags that are used together, and reads the policy file.
    ///
    /// # Errors
    /// Fails with one line about the first flag that can't be used.
    fn of(config: &Config) -> Result<Self, String> {
        let limits = config.serve.limits();
        let upstream = config.application.upstream(limits.stream_idle_timeout)?;
        let policy = config.policy.open()?;
        let listen = ListenAddress::from(config.listen);
        config.serve.check(Some(listen.of_flag("--listen")), true)?;
        Ok(Self { upstream, policy })
    }
}

impl Server {
    /// Returns the server with this identity, whose SPIFFE ID is `own`.
    fn new(
        config: &Config,
        service: &Service,
        identity: Identity,
        own: &SpiffeId,
        upstream: Option<Upstream>,
        policy: LivePolicy,
    ) -> anyhow::Result<Self> {
        let application = config.application.upstream_id.iter();
        let domain = application.map(SpiffeId::trust_domain);
        bundles::warn_of_missing(&identity.x509, "X.509", "--upstream-id", domain);
        let forwarding = upstream.map(|upstream| forwarding(config, upstream, &identity.x509));
        let tenure = service.follow_identity(&identity.x509);
        let mut shared = service.shared().with_tenure(tenure);
        let tls = match config.callers() {
            None => tls::server(&identity.x509)?,
            Some(callers) => {
                let domains = config.peers.iter().map(Pattern::trust_domain);
                bundles::warn_of_missing(&identity.x509, "X.509", "--peers", domains);
                shared = shared.with_trust(service.follow_bundles(&identity.x509));
                tls::server_verifying(&identity.x509, callers)?
            }
        };
        let authenticator = config.follow_policy(policy, identity.jwt, own, service.manager());
        Ok(Self {
            tls,
            takes_certificates: config.takes_certificates(),
            authenticator: Arc::new(authenticator),
            enforcement: config.policy.enforcement(),
            observed: Arc::default(),
            forwarding,
            shared,
        })
    }

    /// Adds the counts of callers and the state of the application to what operators see.
    fn show_in(&self, admin: &Admin) {
        let metrics = admin.metrics();
        metrics.callers(self.authenticator.counts());
        if let Some(Forwarding { upstream, .. }) = &self.forwarding {
            metrics.upstreams([upstream]);
            admin.follow_upstream(None, upstream.status().clone());
        }
    }
}

/// Returns how requests are forwarded to `upstream`.
fn forwarding(config: &Config, upstream: Upstream, x509: &X509Source) -> Forwarding {
    let application = &config.application;
    // A server that refuses nothing ends nothing either.
    let stream_lifetime = match config.policy.enforcement() {
        Enforcement::On => application.stream_lifetime,
        Enforcement::Observe => StreamLifetime::Connection,
    };
    Forwarding {
        upstream,
        security: application.security(x509),
        fields: application.fields(),
        caller_header: application.caller_header.clone(),
        stream_lifetime,
    }
}

/// Serves `listener` until `shutdown`, then drains. Each core runs it once.
pub async fn run(listener: impl Into<Listener>, server: Server, shutdown: Shutdown) {
    let Server {
        tls,
        takes_certificates,
        authenticator,
        enforcement,
        observed,
        forwarding,
        shared,
    } = server;
    let quotas = Arc::clone(shared.quotas());
    let logs_beginning = shared.access_log().is_none();
    let application = Application::new(forwarding, &quotas);
    let certificate: fn(&request::Parts) -> _ = if takes_certificates {
        |head| head.extensions.get::<Peer>()?.id().cloned()
    } else {
        |_| None
    };
    let layer = JwtSvidLayer::new(authenticator)
        .source(|head| head.extensions.get::<Peer>().map(Peer::source))
        .certificate(certificate)
        .enforcement(enforcement)
        .on_refusal(Refusals { quotas, observed });
    let checked = layer.layer(service_fn(move |request| {
        let application = application.clone();
        async move { Ok(application.answer(request, logs_beginning).await) }
    }));
    serve::serve(listener, tls, ServiceHandler(checked), shared, shutdown).await;
}
