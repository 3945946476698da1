//! The server of the scenario. It presents its X.509-SVID, authenticates each request by the
//! JWT-SVID in its bearer token, and serves `/` or forwards to an application.
//!
//! - [`config`], [`upstream`]: flags and environment, typed
//! - [`run`]: serves on one core; a test can run it in its own process, on port 0
//! - `application`: what answers a request whose caller is verified
//!
//! [`JwtSvidLayer`] does the authentication; this crate shows its use.

mod application;
pub mod config;
pub mod upstream;

use std::{process::ExitCode, sync::Arc};

use common::{
    bearer::{Authenticator, JwtSvidLayer, Pattern, Refusal, Rule},
    path::PathPattern,
    throttle::LogQuotas,
    tls,
    workload::Identity,
};
use forward::outbound::{Security, Upstream};
use http::{Request, Response, request::Parts};
use process::{bundles, cli, listen::Inherited, service::Service};
use rustls::ServerConfig;
use serve::{
    Handler, Received, ServiceHandler, Shared,
    body::{self, Body},
    listen::Listener,
    peer::Peer,
    shutdown::Shutdown,
};
use spiffe::SpiffeId;
use tower::{Layer, service_fn};
use tracing::{info, warn};

pub use crate::application::Forwarding;
use crate::{application::Application, config::Config};

/// Everything that a core serves with. All cores share it.
#[derive(Clone, Debug)]
pub struct Server {
    /// Presents the X.509-SVID, and may request a certificate.
    pub tls: Arc<ServerConfig>,
    /// Set if the certificate's SPIFFE ID is the caller's where a request has no token.
    pub takes_certificates: bool,
    /// Decides which requests are let through.
    pub authenticator: Arc<Authenticator>,
    /// The application that requests are forwarded to; `None` for the built-in answer.
    pub forwarding: Option<Forwarding>,
    /// Limits the log lines about requests that were not let through.
    pub quotas: Arc<LogQuotas>,
    /// The deadlines and bounds, and the counts under these bounds.
    pub shared: Shared,
}

/// Connects to the Workload API, listens, and serves until a signal arrives.
///
/// # Errors
/// Fails when no identity is issued, or when there is nothing to listen on.
pub async fn start(config: Config, inherited: Inherited) -> anyhow::Result<ExitCode> {
    let limits = config.serve.limits();
    let upstream = match config.application.upstream(limits.stream_idle_timeout) {
        Ok(upstream) => upstream,
        Err(error) => return cli::usage_error::<Config>(&error),
    };
    let service = Service::claim(&config.serve, inherited, &config.listen.into())?;
    let upstream_files = config.application.open_files(config.serve.cores());
    config
        .serve
        .raise_open_files_limit(upstream_files.as_slice());
    let workload_api = config.identity.workload_api(config.serve.startup_timeout);
    let Some(identity) = service.identity(workload_api.identity()).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let own = identity.x509.svid()?.spiffe_id().clone();
    let forwarding = match upstream {
        Some(upstream) => Some(forwarding(&config, upstream, &identity)?),
        None => None,
    };
    let application = forwarding.as_ref().map(Forwarding::urls);
    let allowed = config.allow.iter().map(Pattern::trust_domain);
    bundles::warn_of_missing(&identity.jwt, "JWT", "--allow", allowed);
    let authenticator = Arc::new(config.authenticator(identity.jwt, &own));
    let mut shared = Shared::new(limits).with_tenure(service.tenure(&identity.x509));
    let tls = match config.callers() {
        None => tls::server(&identity.x509)?,
        Some(callers) => {
            let domains = config.peers.iter().map(Pattern::trust_domain);
            bundles::warn_of_missing(&identity.x509, "X.509", "--peers", domains);
            shared = shared.with_trust(service.trust(&identity.x509));
            tls::server_verifying(&identity.x509, callers)?
        }
    };
    let server = Server {
        tls,
        takes_certificates: config.takes_certificates(),
        authenticator,
        forwarding,
        quotas: Arc::default(),
        shared,
    };
    let announce = |cores, addresses: &str| {
        info!(spiffe_id = %own, cores, application, "listening on {addresses}");
    };
    let core = move |listener, shutdown| run(listener, server.clone(), shutdown);
    service.run(announce, core).await
}

/// Returns how requests are forwarded to `upstream`.
fn forwarding(
    config: &Config,
    upstream: Upstream,
    identity: &Identity,
) -> anyhow::Result<Forwarding> {
    let application = &config.application;
    let domain = application.upstream_id.iter().map(SpiffeId::trust_domain);
    bundles::warn_of_missing(&identity.x509, "X.509", "--upstream-id", domain);
    let security = match &application.upstream_id {
        Some(id) => tls::client(&identity.x509, id).into(),
        None => Security::Plaintext,
    };
    Ok(Forwarding {
        upstream,
        security,
        fields: application.fields(),
        caller_header: application.caller_header.clone(),
        public: config.public.clone().into(),
    })
}

/// Serves `listener` until `shutdown`, then drains. Each core runs it once.
pub async fn run(listener: impl Into<Listener>, server: Server, shutdown: Shutdown) {
    let Server {
        tls,
        takes_certificates,
        authenticator,
        forwarding,
        quotas,
        shared,
    } = server;
    let public = forwarding.as_ref().map(|one| Arc::clone(&one.public));
    let application = Application::new(forwarding, &quotas);
    let certificate: fn(&Parts) -> _ = match takes_certificates {
        true => |head| head.extensions.get::<Peer>()?.id().cloned(),
        false => |_| None,
    };
    let layer = JwtSvidLayer::new(authenticator)
        .source(|head| head.extensions.get::<Peer>().map(Peer::source))
        .certificate(certificate)
        .on_refusal(move |refusal: &Refusal, head: &Parts| refused(refusal, head, &quotas));
    let verified = {
        let application = application.clone();
        layer.layer(service_fn(move |request| {
            let application = application.clone();
            async move { Ok(application.answer(request).await) }
        }))
    };
    let handler = ServerHandler {
        public: public.unwrap_or_default(),
        application,
        verified: ServiceHandler(verified),
    };
    serve::serve(listener, tls, handler, shared, shutdown).await;
}

/// Sends requests to the application: those to public paths at once, all others if their caller is
/// verified.
#[derive(Clone, Debug)]
struct ServerHandler<V> {
    public: Arc<[PathPattern]>,
    application: Application,
    verified: V,
}

impl<V: Handler> Handler for ServerHandler<V> {
    async fn handle(&self, mut request: Request<Received>, peer: &Peer) -> Response<Body> {
        let path = request.uri().path();
        if !self.public.iter().any(|one| one.matches(path)) {
            return self.verified.handle(request, peer).await;
        }
        request.extensions_mut().insert(peer.clone());
        self.application.answer(request).await
    }
}

/// Answers a request that is refused, and logs it within the quota.
fn refused(refusal: &Refusal, head: &Parts, quotas: &LogQuotas) -> Response<Body> {
    let status = refusal.status();
    let quota = match status.is_server_error() {
        true => &quotas.failed,
        false => &quotas.refused,
    };
    if let Some(peer) = head.extensions.get::<Peer>()
        && let Some(left_out) = quota.take(peer.source())
    {
        let remedy = remedy(refusal);
        warn!(%peer, status = status.as_u16(), left_out, "{refusal}{remedy}");
    }
    answer_refusal(refusal)
}

/// Returns the end of a refusal's log line, which names the flag that would allow the caller.
fn remedy(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NotAllowed {
            rule: Rule::MembersOf(_),
            ..
        } => " without --allow",
        _ => "",
    }
}

/// Returns the answer to a refused request. It tells only the status and the challenge.
#[must_use]
pub fn answer_refusal(refusal: &Refusal) -> Response<Body> {
    let (head, ()) = refusal.response().into_parts();
    let mut response = body::status(head.status);
    response.headers_mut().extend(head.headers);
    response
}
