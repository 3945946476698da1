//! The server of the scenario: presents its X.509-SVID, authenticates each request by the JWT-SVID
//! in its bearer token, and serves `/`.
//!
//! - [`config`]: flags and environment, typed
//! - [`run`]: what one core runs; a test runs it once on port 0

pub mod config;

use std::{process::ExitCode, sync::Arc};

use anyhow::Context;
use common::{
    bearer::{self, Authenticator, Refusal, Turns},
    body::{self, Body},
    listen::{self, Inherited, Listener},
    peer::Peer,
    runtime,
    serve::{self, Handler, Limits, Received},
    shown::Shown,
    shutdown::{self, Shutdown},
    telemetry::LogQuotas,
    tls,
};
use http::{Request, Response, StatusCode};
use rustls::ServerConfig;
use tracing::{info, warn};

use crate::config::Config;

/// All that a core serves with; made once, shared by all.
#[derive(Clone, Debug)]
pub struct Server {
    /// Presents the X.509-SVID; asks for no certificate.
    pub tls: Arc<ServerConfig>,
    /// Decides who gets in.
    pub authenticator: Arc<Authenticator>,
    /// Limits the log lines about requests that were not let through.
    pub quotas: Arc<LogQuotas>,
    /// Deadlines and bounds.
    pub limits: Limits,
}

/// What one core answers with; each request has its own hold on it.
#[derive(Clone, Debug)]
struct Answering(Arc<Core>);

#[derive(Debug)]
struct Core {
    authenticator: Arc<Authenticator>,
    /// Which of its unknown tokens is checked next.
    turns: Turns,
    quotas: Arc<LogQuotas>,
}

/// Connects to the Workload API, listens, and serves until a signal.
///
/// # Errors
/// When no identity was issued, or there is nothing to listen on.
pub async fn start(config: Config, inherited: Inherited) -> anyhow::Result<ExitCode> {
    let shutdown = shutdown::on_signal().context("cannot handle signals")?;
    let place = config.serve.place(inherited, config.listen)?;
    let workload_api = config.identity.workload_api(config.serve.startup_timeout);
    let identity = tokio::select! {
        identity = workload_api.identity() => identity?,
        () = shutdown.clone().requested() => return Ok(ExitCode::SUCCESS),
    };
    let own = identity.x509.svid()?.spiffe_id().clone();
    tokio::spawn(bearer::warn_of_unusable_keys(identity.jwt.clone()));
    let server = Server {
        tls: tls::server(&identity.x509)?,
        authenticator: Arc::new(config.authenticator(identity.jwt, &own)),
        quotas: Arc::default(),
        limits: config.serve.limits(),
    };
    let queue = place.queue();
    let listeners = place.listen()?;
    info!(spiffe_id = %own, cores = listeners.len(), "listening on {}", listen::addresses(&listeners)?);
    runtime::run_cores(listeners, move |socket| {
        run(Listener { socket, queue }, server.clone(), shutdown.clone())
    })
    .await?;
    info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Serves `listener` until `shutdown`, then drains.
pub async fn run(listener: impl Into<Listener>, server: Server, shutdown: Shutdown) {
    let core = Answering(Arc::new(Core {
        authenticator: server.authenticator,
        turns: Turns::new(),
        quotas: server.quotas,
    }));
    serve::serve(listener, server.tls, core, server.limits, shutdown).await;
}

impl Core {
    fn log(&self, refusal: &Refusal, peer: &Peer) {
        let status = refusal.status();
        let quota = match status.is_server_error() {
            true => &self.quotas.failed,
            false => &self.quotas.refused,
        };
        if let Some(left_out) = quota.take(peer.source()) {
            warn!(%peer, status = status.as_u16(), left_out, "{refusal}");
        }
    }
}

impl Handler for Answering {
    /// Authenticates first: who may not call learns nothing about what is served.
    async fn handle(&self, request: Request<Received>, peer: &Peer) -> Response<Body> {
        let (mut head, _body) = request.into_parts();
        let Self(core) = self;
        let authenticated =
            core.authenticator
                .authenticate_in_turn(&head, peer.source(), &core.turns);
        let caller = match authenticated.await {
            Ok(caller) => caller,
            Err(refusal) => {
                core.log(&refusal, peer);
                return refusal.into_response();
            }
        };
        info!(caller = %caller.id, method = %Shown(head.method.as_str()), path = %Shown(head.uri.path()), %peer, "Request received");
        head.extensions.insert(caller);
        match head.uri.path() {
            "/" => body::text(StatusCode::OK, "Success!!!"),
            _ => body::status(StatusCode::NOT_FOUND),
        }
    }
}
