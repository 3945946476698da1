//! The server of the scenario. It presents its X.509-SVID, authenticates each request by the
//! JWT-SVID in its bearer token, and serves `/` or forwards to an application.
//!
//! - [`config`], [`upstream`]: flags and environment, typed
//! - [`run`]: serves on one core; a test can run it in its own process, on port 0
//! - `application`: what answers a request whose caller is verified
//! - [`ext_authz`]: answers a gateway's questions instead of serving requests
//!
//! [`JwtSvidLayer`] does the authentication; this crate shows its use.

mod application;
pub mod config;
pub mod ext_authz;
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
    /// Presents the X.509-SVID, and requests no certificate.
    pub tls: Arc<ServerConfig>,
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
    match config.ext_authz.address() {
        Ok(Some(address)) => return ext_authz::start(&config, address, inherited).await,
        Ok(None) => {}
        Err(error) => return cli::usage_error::<Config>(&error),
    }
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
    let (own, authenticator) = authenticator(&config, &identity)?;
    let forwarding = match upstream {
        Some(upstream) => Some(forwarding(&config, upstream, &identity)?),
        None => None,
    };
    let application = forwarding.as_ref().map(Forwarding::urls);
    let server = Server {
        tls: tls::server(&identity.x509)?,
        authenticator,
        forwarding,
        quotas: Arc::default(),
        shared: Shared::new(limits).with_tenure(service.tenure(&identity.x509)),
    };
    let announce = |cores, addresses: &str| {
        info!(spiffe_id = %own, cores, application, "listening on {addresses}");
    };
    let core = move |listener, shutdown| run(listener, server.clone(), shutdown);
    service.run(announce, core).await
}

/// Returns the SPIFFE ID of this server, and the authenticator of its callers.
fn authenticator(
    config: &Config,
    identity: &Identity,
) -> anyhow::Result<(SpiffeId, Arc<Authenticator>)> {
    let own = identity.x509.svid()?.spiffe_id().clone();
    let allowed = config.allow.iter().map(Pattern::trust_domain);
    bundles::warn_of_missing(&identity.jwt, "JWT", "--allow", allowed);
    let authenticator = config.authenticator(identity.jwt.clone(), &own);
    Ok((own, Arc::new(authenticator)))
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
        authenticator,
        forwarding,
        quotas,
        shared,
    } = server;
    let public = forwarding.as_ref().map(|one| Arc::clone(&one.public));
    let application = Application::new(forwarding, &quotas);
    let layer = JwtSvidLayer::new(authenticator)
        .source(|head| head.extensions.get::<Peer>().map(Peer::source))
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
        warn!(%peer, status = status.as_u16(), left_out, "{}", log_text(refusal));
    }
    answer_refusal(refusal)
}

/// Returns the text of a refusal for the log, with the flag that would allow the caller.
fn log_text(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NotAllowed {
            rule: Rule::MembersOf(_),
            ..
        } => format!("{refusal} without --allow"),
        _ => refusal.to_string(),
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
