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
    Checked, Fields, Forwarder, LoggedForwarder, Rejected, Rejection, outbound::Upstream,
};
use http::{Request, Response};
use process::{
    bundles, cli,
    listen::{Inherited, ListenAddress},
    service::Service,
};
use rustls::ServerConfig;
use serve::{
    Handler, Received, Shared, body::Body, listen::Listener, peer::Peer, shutdown::Shutdown,
};
use tracing::info;

use crate::config::Config;

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
    let limits = config.serve.limits();
    let upstream = match config.upstream.upstream(limits.stream_idle_timeout) {
        Ok(upstream) => upstream,
        Err(error) => return cli::usage_error::<Config>(&error),
    };
    let address = ListenAddress::from(config.listen);
    if let Err(error) = config.serve.admin.check(Some(&address)) {
        return cli::usage_error::<Config>(&error);
    }
    if config.doctor.doctor {
        return doctor::run(&config, &upstream, inherited).await;
    }
    let service = Service::claim(&config.serve, inherited, address.of_flag("--listen"))?;
    service
        .admin()
        .follow_upstream(None, upstream.status.clone());
    let upstream_files = config.upstream.open_files(config.serve.cores());
    config.serve.raise_open_files_limit(&[upstream_files]);
    let workload_api = service.workload_api(&config.identity, config.serve.startup_timeout);
    let Some(identity) = service.identity(workload_api.x509()).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let own = identity.x509.svid()?.spiffe_id().clone();
    let domain = config.upstream.upstream_id.trust_domain();
    bundles::warn_of_missing(&identity.x509, "X.509", "--upstream-id", [domain]);
    let upstream_tls = upstream_tls(&config, &identity.x509)?;
    let proxy = Proxy {
        tls: tls::server(&identity.x509)?,
        upstream_tls,
        upstream,
        paths: config.paths.clone().into(),
        shared: config
            .serve
            .shared()
            .with_tenure(service.tenure(&identity.x509)),
    };
    let metrics = service.admin().metrics();
    metrics.role("proxy");
    metrics.listener(&proxy.shared);
    metrics.upstreams([&proxy.upstream]);
    service.admin().follow_refusals(proxy.shared.quotas());
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

/// Returns the configuration that verifies the upstream.
fn upstream_tls(config: &Config, x509: &X509Source) -> anyhow::Result<tls::ClientTls> {
    let tls = tls::client(x509, &config.upstream.upstream_id);
    Ok(match config.upstream.client_certificate {
        true => tls.presenting()?,
        false => tls,
    })
}

/// Proxies requests to `listener` until `shutdown`, then drains. Each core runs it once.
pub async fn run(listener: impl Into<Listener>, proxy: Proxy, shutdown: Shutdown) {
    let security = proxy.upstream_tls.into();
    let forwarder = Forwarder::new(proxy.upstream, security, Fields::default());
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
        match self.paths.iter().any(|one| one.matches(request.path())) {
            true => Ok(request),
            false => Err(request.rejected(Rejection::NotFound)),
        }
    }
}

/// Logs a request. The query is not logged, because callers put secrets there.
fn log(request: &Checked, peer: &Peer) {
    let method = Sanitized(request.method().as_str());
    let path = Sanitized(request.path());
    info!(%peer, "{method} {path}");
}
