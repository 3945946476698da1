//! The flags of a client that listens for applications.

use std::time::Duration;

use clap::Args;
use forward::outbound::Upstream;
use process::{
    cli::{ServeArgs, UpstreamArgs},
    listen::{ListenAddress, ListenFlag},
};

use crate::route::Route;

/// The listener, its routes, and the limits on both sides.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Listening for applications")]
pub(crate) struct ListenArgs {
    /// Listen on a loopback address or a Unix socket (unix:/run/client.sock), and forward the requests of
    /// applications with this workload's JWT-SVID. Each user who can connect acts as this workload
    #[arg(
        long,
        value_name = "ADDRESS",
        conflicts_with_all = ["method", "headers", "data", "include", "max_time", "repeat", "every", "print"]
    )]
    pub(crate) listen: Option<ListenAddress>,
    /// Route by the host of requests, instead of --url for all: HOST=URL;audience=AUDIENCE;server-id=ID, or
    /// server-name=NAME and ca=FILE in place of server-id; repeatable. Other hosts are answered 403
    #[arg(
        long = "route",
        value_name = "ROUTE",
        value_delimiter = ' ',
        requires = "listen",
        conflicts_with_all = ["audience", "url", "server_id", "server_name", "ca"]
    )]
    pub(crate) routes: Vec<Route>,
    /// Replace the application's own Authorization. Otherwise requests with one are answered 400
    #[arg(long, requires = "listen")]
    pub(crate) replace_authorization: bool,
    /// The deadlines and the bound of upstream connections.
    #[command(flatten)]
    pub(crate) upstream: UpstreamArgs,
    /// The bounds of the listener, and its drain.
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

impl ListenArgs {
    /// Returns the address to listen on.
    ///
    /// # Errors
    /// Fails when other machines could reach it.
    pub(crate) fn address(&self) -> Result<ListenFlag<'_>, String> {
        match &self.listen {
            Some(address) if address.is_local() => Ok(ListenFlag {
                is_local_only: true,
                ..address.of_flag("--listen")
            }),
            Some(address) => Err(format!(
                "--listen {address} can be reached from other machines, and each process that reaches it acts as this workload; expected a loopback address or a Unix socket, for example 127.0.0.1:15001 or unix:/run/client.sock"
            )),
            None => Err("--listen is missing".into()),
        }
    }

    /// Returns the upstream of each route. The answer to a gRPC call may be silent for `call_timeout`.
    ///
    /// # Errors
    /// Fails when two routes are for the same host.
    pub(crate) fn upstreams(
        &self,
        routes: &[Route],
        call_timeout: Duration,
    ) -> Result<Vec<Upstream>, String> {
        for (index, route) in routes.iter().enumerate() {
            if let Some(host) = &route.host
                && routes[..index].iter().any(|other| other.host == route.host)
            {
                return Err(format!(
                    "--route {host}=… is given twice: name each host once"
                ));
            }
        }
        // The routes share the bound of --max-upstream-connections, and the counts.
        let shared = self.upstream.upstream(&[], call_timeout)?;
        let upstreams = routes
            .iter()
            .map(|route| shared.at(vec![route.url.clone()]));
        Ok(upstreams.collect())
    }
}
