//! The flags of what listens.

use std::{net::SocketAddr, time::Duration};

use clap::Args;
use serve::Limits;

use super::parse::{duration, positive, whole_number};
use crate::{
    listen::{self, Inherited},
    runtime,
};

/// What a listener may take, and how it stops.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Serving")]
pub struct ServeArgs {
    /// How long start-up waits for an identity
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub startup_timeout: Duration,
    /// How long a TLS handshake may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    handshake_timeout: Duration,
    /// How long a request's header may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    header_timeout: Duration,
    /// How long a connection without a request is kept
    #[arg(long, value_name = "DURATION", default_value = "75s", value_parser = duration)]
    idle_timeout: Duration,
    /// How long a body may stand still for its caller: a request's for each KiB, a response's until more of it is read
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    body_timeout: Duration,
    /// Longest request body, in bytes [default: any]
    #[arg(long, value_name = "BYTES", value_parser = whole_number::<u64>)]
    max_body: Option<u64>,
    /// How long requests in flight may go on after SIGTERM or SIGINT; a second signal ends at once
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    drain_timeout: Duration,
    /// Connections at once; more wait for one to end, as long as their handshake may take
    #[arg(long, value_name = "N", default_value = "10000", value_parser = positive)]
    max_connections: usize,
    /// Connections at once from one IPv4 address or IPv6 /64; more are closed [default: half of --max-connections]
    #[arg(long, value_name = "N", value_parser = positive)]
    max_connections_per_address: Option<usize>,
    /// TLS handshakes at once; for one more the oldest of the address with the most is closed
    #[arg(long, value_name = "N", default_value = "1000", value_parser = positive)]
    max_handshakes: usize,
    /// Requests at once, over all connections; more are answered 503
    #[arg(long, value_name = "N", default_value = "10000", value_parser = positive)]
    max_requests: usize,
    /// Cores to serve on, each with a listener of its own [default: all that this process may use]
    #[arg(long, value_name = "N", value_parser = positive)]
    cores: Option<usize>,
    /// Listen though another process of this user listens there: to start a new one before the old one is stopped
    #[arg(long)]
    reuse_port: bool,
}

impl ServeArgs {
    /// Returns the deadlines and bounds that the flags set.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            handshake_timeout: self.handshake_timeout,
            header_timeout: self.header_timeout,
            idle_timeout: self.idle_timeout,
            body_timeout: self.body_timeout,
            max_body: self.max_body,
            drain_timeout: self.drain_timeout,
            max_connections: self.max_connections,
            max_connections_per_source: self
                .max_connections_per_address
                .unwrap_or_else(|| self.max_connections.div_ceil(2)),
            max_handshakes: self.max_handshakes,
            max_requests: self.max_requests,
        }
    }

    /// Raises the limit of open files to the hard limit, and warns when that is less than the flags
    /// allow connections.
    pub fn raise_open_files(&self) {
        let (connections, handshakes) = (self.max_connections, self.max_handshakes);
        runtime::allow_open_files(connections.saturating_add(handshakes));
    }

    /// Finds where to listen: on sockets that were passed to this process, otherwise on `address`.
    ///
    /// # Errors
    /// Fails when that is impossible.
    pub fn place(
        &self,
        inherited: Inherited,
        address: SocketAddr,
    ) -> Result<listen::Place, listen::Error> {
        let cores = self.cores.unwrap_or_else(runtime::available_cores);
        listen::Place::find(inherited, address, self.reuse_port, cores)
    }
}
