//! Flags and environment of the proxy, typed and checked.

use std::net::SocketAddr;

use clap::Parser;
use common::path::PathPattern;
use process::{
    cli::{self, LogArgs, ServeArgs, WorkloadApiArgs},
    doctor::DoctorArgs,
};

use crate::upstream::VerifiedUpstreamArgs;

/// The name of the program in metrics and spans.
pub(crate) const ROLE: &str = "proxy";

/// Flags and environment.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "proxy",
    version,
    max_term_width = 100,
    about = "TLS-terminating reverse proxy that verifies its upstream by SPIFFE ID\n\n\
        It presents its own X.509-SVID, and forwards requests, bearer token included, only to a \
        workload with the SPIFFE ID of --upstream-id.",
    after_help = "\
Each flag can also be set by PROXY_ and its name: PROXY_UPSTREAM=https://localhost:8080

Examples:
  proxy
  proxy --upstream https://10.0.0.5:8080 \\
        --upstream-id spiffe://example.org/server
  proxy --upstream https://10.0.0.5:8080 --upstream https://10.0.0.6:8080
  proxy --listen 127.0.0.1:8443 --path / --path '/api/**'
  proxy --doctor"
)]
pub struct Config {
    /// IP address and port to listen on. The default accepts IPv4 too
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8443", value_parser = cli::listen_address)]
    pub listen: SocketAddr,
    /// The upstream, and its SPIFFE ID.
    #[command(flatten)]
    pub upstream: VerifiedUpstreamArgs,
    /// Path to forward: an exact path, or a pattern such as '/api/**' or '/**'; repeatable. Every other
    /// path is answered 404, and so is one below a pattern that servers could read in two ways, for
    /// example with .. or %2F
    #[arg(
        long = "path",
        value_name = "PATH",
        default_value = "/",
        value_delimiter = ',',
        help_heading = "Upstream"
    )]
    pub paths: Vec<PathPattern>,
    /// The diagnosis.
    #[command(flatten)]
    pub doctor: DoctorArgs,
    /// The Workload API.
    #[command(flatten)]
    pub identity: WorkloadApiArgs,
    /// The bounds of the listener, and its drain.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// The log.
    #[command(flatten)]
    pub log: LogArgs,
}

impl AsRef<LogArgs> for Config {
    fn as_ref(&self) -> &LogArgs {
        &self.log
    }
}
