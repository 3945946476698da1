//! The server of the scenario. It presents its X.509-SVID, authenticates each request by the
//! JWT-SVID in its bearer token, and serves `/`.
//!
//! - [`config`]: flags and environment, typed
//! - [`run`]: serves on one core; a test can run it in its own process, on port 0
//!
//! [`JwtSvidLayer`] does the authentication; this crate shows its use.

pub mod config;

use std::{process::ExitCode, sync::Arc};

use common::{
    bearer::{Authenticator, Caller, JwtSvidLayer, Pattern, Refusal, Rule},
    sanitize::Sanitized,
    throttle::LogQuotas,
    tls,
};
use http::{Request, Response, StatusCode, request::Parts};
use process::{bundles, listen::Inherited, service::Service};
use rustls::ServerConfig;
use serve::{
    Received, ServiceHandler, Shared,
    body::{self, Body},
    listen::Listener,
    peer::Peer,
    shutdown::Shutdown,
};
use tower::{Layer, service_fn};
use tracing::{info, warn};

use crate::config::Config;

/// Everything that a core serves with. All cores share it.
#[derive(Clone, Debug)]
pub struct Server {
    /// Presents the X.509-SVID, and requests no certificate.
    pub tls: Arc<ServerConfig>,
    /// Decides which requests are let through.
    pub authenticator: Arc<Authenticator>,
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
    let service = Service::claim(&config.serve, inherited, config.listen)?;
    config.serve.raise_open_files_limit(&[]);
    let workload_api = config.identity.workload_api(config.serve.startup_timeout);
    let Some(identity) = service.identity(workload_api.identity()).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let own = identity.x509.svid()?.spiffe_id().clone();
    let allowed = config.allow.iter().map(Pattern::trust_domain);
    bundles::warn_of_missing(&identity.jwt, "JWT", "--allow", allowed);
    let authenticator = Arc::new(config.authenticator(identity.jwt, &own));
    tokio::spawn(Arc::clone(&authenticator).watch_keys());
    let server = Server {
        tls: tls::server(&identity.x509)?,
        authenticator,
        quotas: Arc::default(),
        shared: Shared::new(config.serve.limits()).with_tenure(service.tenure(&identity.x509)),
    };
    let announce = |cores, addresses: &str| {
        info!(spiffe_id = %own, cores, "listening on {addresses}");
    };
    let core = move |listener, shutdown| run(listener, server.clone(), shutdown);
    service.run(announce, core).await
}

/// Serves `listener` until `shutdown`, then drains. Each core runs it once.
pub async fn run(listener: impl Into<Listener>, server: Server, shutdown: Shutdown) {
    let Server {
        tls,
        authenticator,
        quotas,
        shared,
    } = server;
    let layer = JwtSvidLayer::new(authenticator)
        .source(|head| head.extensions.get::<Peer>().map(Peer::source))
        .on_refusal(move |refusal: &Refusal, head: &Parts| refused(refusal, head, &quotas));
    let handler = ServiceHandler(layer.layer(service_fn(async |request| Ok(answer(&request)))));
    serve::serve(listener, tls, handler, shared, shutdown).await;
}

/// Answers a request whose caller is verified.
fn answer(request: &Request<Received>) -> Response<Body> {
    let (Some(caller), Some(peer)) = (
        request.extensions().get::<Caller>(),
        request.extensions().get::<Peer>(),
    ) else {
        return body::status(StatusCode::INTERNAL_SERVER_ERROR);
    };
    let method = Sanitized(request.method().as_str());
    let path = Sanitized(request.uri().path());
    info!(caller = %caller.id, %method, %path, %peer, "Request received");
    match request.uri().path() {
        "/" => body::text(StatusCode::OK, "Success!!!"),
        _ => body::status(StatusCode::NOT_FOUND),
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
