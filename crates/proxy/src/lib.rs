//! The proxy of the scenario. It terminates TLS with its X.509-SVID, verifies the SPIFFE ID of the
//! upstream, and forwards requests. It passes tokens on and does not verify them.
//!
//! - [`config`], [`upstream`]: flags and environment, typed · `doctor`: the steps of `--doctor`
//! - `confinement`: the ports that the flags name
//! - [`run`]: proxies on one core; a test can run it in its own process, on port 0

pub mod config;
mod confinement;
mod doctor;
pub mod upstream;

use std::{process::ExitCode, sync::Arc};

use common::{path::PathPattern, sanitize::Sanitized, tls, workload::X509Source};
use forward::{
    Checked, FieldPolicy, Forwarder, LoggedForwarder, Rejected, Rejection, outbound::Upstream,
};
use http::{Request, Response};
use process::{
    bundles, cli,
    listen::{Inherited, ListenAddress},
    service::{Claim, Service},
};
use rustls::ServerConfig;
use serve::{
    Handler, Received, Shared, body::Body, listen::Listener, peer::Peer, shutdown::Shutdown,
    spans::Recorded,
};
use tracing::info;

use crate::config::{Config, ROLE};

/// Everything that a core proxies with. All cores share it.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Presents the X.509-SVID, and requests no certificate.
    pub tls: Arc<ServerConfig>,
    /// Verifies the upstream's SPIFFE ID.
    pub upstream_tls: tls::ClientTls,
    /// The upstream.
    pub upstream: Upstream,
    /// The paths that are forwarded. Every other path is answered 404.
    pub paths: Arc<[PathPattern]>,
    /// The deadlines and bounds, the counts under these bounds, and the quotas of log lines.
    pub shared: Shared,
}

/// The request handler of one core, which has its own pool of upstream connections.
#[derive(Clone, Debug)]
struct ProxyHandler {
    forwarder: Arc<LoggedForwarder>,
    paths: Arc<[PathPattern]>,
    /// Set if a request that is forwarded is logged at its beginning.
    logs_beginning: bool,
}

/// Connects to the Workload API, listens, and proxies until a signal arrives.
///
/// # Errors
/// Fails when no identity is issued, or when there is nothing to listen on.
pub async fn start(config: Config, inherited: Inherited) -> anyhow::Result<ExitCode> {
    let upstream = match checked(&config) {
        Ok(upstream) => upstream,
        Err(error) => return cli::usage_error::<Config>(&error),
    };
    if config.doctor.doctor {
        doctor::run(&config, &upstream, inherited).await
    } else {
        serve_requests(&config, upstream, inherited).await
    }
}

/// Checks the flags that are used together. Returns the upstream.
///
/// # Errors
/// Fails with one line about the first flag that can't be used.
fn checked(config: &Config) -> Result<Upstream, String> {
    let limits = config.serve.limits();
    let upstream = config.upstream.upstream(limits.stream_idle_timeout)?;
    let listen = ListenAddress::from(config.listen);
    config.serve.check(Some(listen.of_flag("--listen")), true)?;
    Ok(upstream)
}

/// Listens, and proxies requests until a signal arrives.
async fn serve_requests(
    config: &Config,
    upstream: Upstream,
    inherited: Inherited,
) -> anyhow::Result<ExitCode> {
    let address = ListenAddress::from(config.listen);
    let listen = address.of_flag("--listen");
    let files = config.upstream.open_files(config.serve.cores());
    let claim = Claim {
        role: ROLE,
        listen,
        others: &[files],
        recorded: Recorded::Accepted,
    };
    let service = Service::claim(&config.serve, inherited, claim)?;
    let admin = service.admin();
    admin.metrics().upstreams([&upstream]);
    admin.follow_upstream(None, upstream.status().clone());
    let workload_api = service.follow_workload_api(&config.identity);
    let Some(identity) = service.identity(workload_api.x509()).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let own = identity.x509.svid()?.spiffe_id().clone();
    let proxy = Proxy::new(config, &service, &identity.x509, upstream)?;
    let announce = |cores, addresses: &str| {
        info!(
            spiffe_id = %own, cores, upstream = %proxy.upstream, upstream_id = %proxy.upstream_tls.expected(),
            "listening on {addresses}"
        );
    };
    let core = {
        let proxy = proxy.clone();
        move |listener, shutdown| run(listener, proxy.clone(), shutdown)
    };
    service.run(announce, core).await
}

impl Proxy {
    /// Returns the proxy with the identity of `x509`.
    fn new(
        config: &Config,
        service: &Service,
        x509: &X509Source,
        upstream: Upstream,
    ) -> anyhow::Result<Self> {
        let domain = config.upstream.upstream_id.trust_domain();
        bundles::warn_of_missing(x509, "X.509", "--upstream-id", [domain]);
        let shared = service.shared();
        Ok(Self {
            upstream_tls: config.upstream.tls(x509)?,
            tls: tls::server(x509)?,
            upstream,
            paths: config.paths.clone().into(),
            shared: shared.with_tenure(service.follow_identity(x509)),
        })
    }
}

/// Proxies requests to `listener` until `shutdown`, then drains. Each core runs it once.
pub async fn run(listener: impl Into<Listener>, proxy: Proxy, shutdown: Shutdown) {
    let security = proxy.upstream_tls.into();
    let forwarder = Forwarder::new(proxy.upstream, security, FieldPolicy::default());
    let quotas = Arc::clone(proxy.shared.quotas());
    let handler = ProxyHandler {
        forwarder: Arc::new(LoggedForwarder::new(forwarder, quotas)),
        paths: proxy.paths,
        logs_beginning: proxy.shared.access_log().is_none(),
    };
    serve::serve(listener, proxy.tls, handler, proxy.shared, shutdown).await;
}

impl Handler for ProxyHandler {
    async fn handle(&self, request: Request<Received>, peer: &Peer) -> Response<Body> {
        match self.check(request) {
            Ok(request) => {
                if self.logs_beginning {
                    log(&request, peer);
                }
                self.forwarder.forward(request, peer, None).await
            }
            Err(rejected) => self.forwarder.reject(&rejected, peer),
        }
    }
}

impl ProxyHandler {
    /// Rejects malformed requests, and paths that are not forwarded.
    fn check(&self, request: Request<Received>) -> Result<Checked, Box<Rejected<Received>>> {
        let request = Checked::new(request)?;
        if self.paths.iter().any(|one| one.matches(request.path())) {
            Ok(request)
        } else {
            Err(request.rejected(Rejection::NotFound))
        }
    }
}

/// Logs a request. The query is not logged, because callers put secrets there.
fn log(request: &Checked, peer: &Peer) {
    let method = Sanitized(request.method().as_str());
    let path = Sanitized(request.path());
    info!(%peer, "{method} {path}");
}
