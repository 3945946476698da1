//! Listens for an application, and adds a JWT-SVID to each of its requests.
//!
//! - [`config`]: the flags
//! - `destination`: where the requests to a host go, and with which token
//! - `handler`: one request, from the application to the answer

pub(crate) mod config;
mod destination;
mod handler;

use std::process::ExitCode;

use common::workload::WorkloadApi;
use forward::outbound::Upstream;
use process::{
    cli,
    listen::{Inherited, ListenFlag},
    service::{Claim, Service},
};
use serve::{listen, spans::Recorded};
use tokio::time::Instant;
use tracing::info;

use self::{destination::Destination, handler::ListenHandler};
use crate::{
    config::{Config, ROLE},
    peer::PeerIdentity,
    route::Route,
};

/// Connects to the Workload API, listens, and forwards until a signal arrives.
///
/// # Errors
/// Fails when no token is issued for a route, or when there is nothing to listen on.
pub(crate) async fn run(config: &Config, inherited: Inherited) -> anyhow::Result<ExitCode> {
    let args = &config.listening;
    let deadline = Instant::now() + args.serve.startup_timeout;
    let (listen, routes) = match checked(config) {
        Ok(checked) => checked,
        Err(error) => return cli::usage_error::<Config>(&error),
    };
    for (route, _) in &routes {
        route.peer.check_roots()?;
    }
    config.warn();
    let files = args.upstream.open_files(routes.len(), args.serve.cores());
    let claim = Claim {
        role: ROLE,
        listen,
        others: &[files],
        recorded: Recorded::All,
    };
    let service = Service::claim(&args.serve, inherited, claim)?;
    let workload_api = service.follow_workload_api(&config.identity);
    let shared = service.shared();
    let upstreams = routes.iter().map(|(_, upstream)| upstream);
    service.admin().metrics().upstreams(upstreams);
    let Some(destinations) = destinations(&service, &workload_api, routes).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let handler = ListenHandler::new(destinations, args.replace_authorization, &shared);
    handler.show_in(service.admin());
    let waiting = "waiting for the first JWT-SVID of each route";
    service.manager().waiting(waiting);
    let first_tokens = service.or_stop(handler.first_tokens(deadline));
    if first_tokens.await?.is_none() {
        return Ok(ExitCode::SUCCESS);
    }
    serve_on_cores(service, handler).await
}

/// Serves applications on all cores until a signal arrives.
async fn serve_on_cores(service: Service, handler: ListenHandler) -> anyhow::Result<ExitCode> {
    let shared = service.shared();
    let routes: Vec<_> = handler.destinations().map(ToString::to_string).collect();
    let routes = routes.join(", ");
    let announce = |cores, addresses: &str| {
        info!(
            cores,
            routes, "listening on {addresses} for applications of this machine"
        );
    };
    let core = move |listener, shutdown| {
        let (handler, shared) = (handler.of_core(), shared.clone());
        let plaintext = listen::Security::Plaintext;
        serve::serve(listener, plaintext, handler, shared, shutdown)
    };
    service.run(announce, core).await
}

/// Checks the flags that are used together. Returns the address to listen on, and each route with its upstream.
///
/// # Errors
/// Fails with one line about the first flag that can't be used.
pub(crate) fn checked(config: &Config) -> Result<(ListenFlag<'_>, Vec<(Route, Upstream)>), String> {
    let args = &config.listening;
    let routes = config.routes()?;
    let listen = args.address()?;
    let call_timeout = args.serve.limits().stream_idle_timeout;
    let upstreams = args.upstreams(&routes, call_timeout)?;
    Ok((listen, routes.into_iter().zip(upstreams).collect()))
}

/// Returns the destination of each route, or `None` if a stop is requested first. The X.509 bundles are
/// fetched only if a route verifies a SPIFFE ID.
async fn destinations(
    service: &Service,
    workload_api: &WorkloadApi,
    routes: Vec<(Route, Upstream)>,
) -> anyhow::Result<Option<Vec<Destination>>> {
    let is_spiffe = |(route, _): &(Route, _)| matches!(route.peer, PeerIdentity::SpiffeId(_));
    let x509 = if routes.iter().any(is_spiffe) {
        match service.identity(workload_api.x509_bundles()).await? {
            Some(identity) => Some(identity.x509),
            None => return Ok(None),
        }
    } else {
        None
    };
    let destinations = routes.into_iter().map(|(route, upstream)| {
        let peer = &route.peer;
        peer.warn_of_missing_bundle(x509.as_ref(), route.flag());
        let security = peer.security(x509.as_ref())?;
        Ok(Destination::new(route, upstream, security, workload_api))
    });
    destinations.collect::<anyhow::Result<_>>().map(Some)
}
