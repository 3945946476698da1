//! Listens for an application, and adds a JWT-SVID to each of its requests.
//!
//! - [`config`]: the flags
//! - `destination`: where the requests to a host go, and with which token
//! - `handler`: one request, from the application to the answer

pub mod config;
mod destination;
mod handler;

use std::process::ExitCode;

use common::workload::WorkloadApi;
use forward::outbound::Security;
use process::{cli, listen::Inherited, service::Service};
use serve::listen;
use tokio::time::Instant;
use tracing::info;

use self::{destination::Destination, handler::ListenHandler};
use crate::{config::Config, peer::Peer, route::Route};

/// Connects to the Workload API, listens, and forwards until a signal arrives.
///
/// # Errors
/// Fails when no token is issued for a route, or when there is nothing to listen on.
pub(crate) async fn run(config: &Config, inherited: Inherited) -> anyhow::Result<ExitCode> {
    let args = &config.listening;
    let limits = args.serve.limits();
    let deadline = Instant::now() + args.serve.startup_timeout;
    let checked = config.routes().and_then(|routes| {
        let listen = args.address()?;
        let upstreams = args.upstreams(&routes, limits.stream_idle_timeout)?;
        Ok((listen, routes, upstreams))
    });
    let (listen, routes, upstreams) = match checked {
        Ok(checked) => checked,
        Err(error) => return cli::usage_error::<Config>(&error),
    };
    config.warn();
    let service = Service::claim(&args.serve, inherited, listen)?;
    args.serve
        .raise_open_files_limit(&[args.upstream.open_files(routes.len(), args.serve.cores())]);
    let workload_api = service.workload_api(&config.identity, args.serve.startup_timeout);
    let metrics = service.admin().metrics();
    let shared = args.serve.shared();
    metrics.role(crate::ROLE);
    metrics.listener(&shared);
    metrics.upstreams(&upstreams);
    let Some(securities) = securities(&service, &workload_api, &routes).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let parts = routes.into_iter().zip(upstreams).zip(securities);
    let destinations = parts.map(|((route, upstream), security)| {
        Destination::new(route, upstream, security, &workload_api)
    });
    let handler = ListenHandler::new(destinations.collect(), args.replace_authorization, &shared);
    handler.show_in(service.admin());
    service
        .manager()
        .waiting("waiting for the first JWT-SVID of each route");
    if service
        .or_stop(handler.first_tokens(deadline))
        .await?
        .is_none()
    {
        return Ok(ExitCode::SUCCESS);
    }
    let routes = handler
        .destinations()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    let announce = |cores, addresses: &str| {
        info!(
            cores,
            routes, "listening on {addresses} for applications of this machine"
        );
    };
    let core = move |listener, shutdown| {
        let (handler, shared) = (handler.of_core(), shared.clone());
        serve::serve(
            listener,
            listen::Security::Plaintext,
            handler,
            shared,
            shutdown,
        )
    };
    service.run(announce, core).await
}

/// Returns the security of each route, or `None` if a stop is requested first. The X.509 bundles are
/// fetched only if a route verifies a SPIFFE ID.
async fn securities(
    service: &Service,
    workload_api: &WorkloadApi,
    routes: &[Route],
) -> anyhow::Result<Option<Vec<Security>>> {
    let is_spiffe = |route: &Route| matches!(route.peer, Peer::SpiffeId(_));
    let x509 = match routes.iter().any(is_spiffe) {
        false => None,
        true => match service.identity(workload_api.x509_bundles()).await? {
            Some(identity) => Some(identity.x509),
            None => return Ok(None),
        },
    };
    let securities = routes
        .iter()
        .map(|route| route.peer.security(x509.as_ref(), route.flag()));
    securities.collect::<anyhow::Result<_>>().map(Some)
}
