//! The flags of the binaries that listen.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serve::{Limits, Shared, access::AccessLog};

use super::parse::{duration, pause, positive, whole_number};
use crate::{
    admin::{AdminArgs, ClaimedAdmin},
    export::SpanArgs,
    listen::{self, ClaimedAddress, Inherited, ListenFlag},
    runtime::{self, OpenFiles},
    sandbox::{Confinement, Sandbox, SandboxMode},
};

/// The bounds of a listener, and its drain.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Serving")]
pub struct ServeArgs {
    /// Longest wait for an identity at start-up
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub startup_timeout: Duration,
    /// Longest time for a TLS handshake
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    handshake_timeout: Duration,
    /// Longest time for a request's header
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    header_timeout: Duration,
    /// Longest time that a connection without a request is kept
    #[arg(long, value_name = "DURATION", default_value = "75s", value_parser = duration)]
    idle_timeout: Duration,
    /// Longest wait for each KiB of a request's body, and for the caller to read more of a
    /// response's body
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    body_timeout: Duration,
    /// Longest time for which a stream may be silent in both directions: an answer that is sent as it
    /// comes, a gRPC call, or a WebSocket
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    stream_idle_timeout: Duration,
    /// Longest request body in bytes. A longer one is answered 413 [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = whole_number::<u64>)]
    max_body: Option<u64>,
    /// Longest time for requests in flight to finish after SIGTERM or SIGINT. A second signal ends
    /// the process at once
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    drain_timeout: Duration,
    /// Time for which the process accepts connections after SIGTERM or SIGINT. /ready of --admin is 503 from the
    /// signal on, so that a load balancer sends new connections elsewhere. Then --drain-timeout begins
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = pause)]
    stop_delay: Duration,
    /// Longest life of a connection. Then it drains: requests in flight have --drain-timeout to
    /// finish. Each connection gets up to a tenth less [default: the life of the X.509-SVID that its
    /// caller has verified]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    max_connection_age: Option<Duration>,
    /// Connections at once. Further ones wait for one to end, at most --handshake-timeout
    #[arg(long, value_name = "N", default_value = "10000", value_parser = positive)]
    max_connections: usize,
    /// Connections at once from one IPv4 address or IPv6 /64. Further ones are closed [default:
    /// half of --max-connections]
    #[arg(long, value_name = "N", value_parser = positive)]
    max_connections_per_address: Option<usize>,
    /// TLS handshakes at once. For a further one, the oldest handshake of the address with the most
    /// is closed
    #[arg(long, value_name = "N", default_value = "1000", value_parser = positive)]
    max_handshakes: usize,
    /// Requests in flight at once, over all connections. For a further one, the oldest request of the
    /// address with the most is ended, or it is answered 503 itself
    #[arg(long, value_name = "N", default_value = "10000", value_parser = positive)]
    max_requests: usize,
    /// Cores to serve on, each with its own listener [default: all cores that this process may use]
    #[arg(long, value_name = "N", value_parser = positive)]
    cores: Option<usize>,
    /// Sandbox (Landlock): on restricts the process to the files and ports that its flags name, as far as the
    /// kernel can; required does not start without all restrictions; off restricts nothing
    #[arg(
        long,
        value_name = "MODE",
        default_value = "on",
        hide_possible_values = true
    )]
    sandbox: SandboxMode,
    /// Listen even if another process of this user listens there, so that a new process can start
    /// before the old one stops
    #[arg(long)]
    reuse_port: bool,
    /// Log a line at the end of these requests, with status, bytes and durations [default: a line at the
    /// beginning of each request that is served]
    #[arg(long, value_name = "WHICH")]
    log_requests: Option<LogRequests>,
    /// The listener for operators.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// The export of spans.
    #[command(flatten)]
    pub(crate) spans: SpanArgs,
}

/// The requests in the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogRequests {
    /// All requests.
    All,
    /// Requests that this process answers in place of serving them.
    Refused,
    /// No request.
    None,
}

impl From<LogRequests> for AccessLog {
    fn from(requests: LogRequests) -> Self {
        match requests {
            LogRequests::All => Self::All,
            LogRequests::Refused => Self::Refused,
            LogRequests::None => Self::None,
        }
    }
}

impl ServeArgs {
    /// Returns the parts of a listener that all cores share: its limits, its counts and its access log.
    pub(crate) fn shared(&self) -> Shared {
        let log = self.log_requests.map(AccessLog::from);
        Shared::new(self.limits()).with_access_log(log)
    }

    /// Returns the deadlines and bounds that the flags set.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            handshake_timeout: self.handshake_timeout,
            header_timeout: self.header_timeout,
            idle_timeout: self.idle_timeout,
            body_timeout: self.body_timeout,
            stream_idle_timeout: self.stream_idle_timeout,
            max_body: self.max_body,
            drain_timeout: self.drain_timeout,
            max_connection_age: self.max_connection_age,
            max_connections: self.max_connections,
            max_connections_per_source: self
                .max_connections_per_address
                .unwrap_or_else(|| self.max_connections.div_ceil(2)),
            max_handshakes: self.max_handshakes,
            max_requests: self.max_requests,
        }
    }

    /// Raises this process's limit of open files to the hard limit. Warns when that is too low for
    /// the connections and handshakes that the flags allow, and for `others`.
    pub(crate) fn raise_open_files_limit(&self, others: &[OpenFiles]) {
        runtime::raise_open_files_limit(&self.open_files(others));
    }

    /// Returns the limit of open files that the process will have.
    ///
    /// # Errors
    /// Fails with the warning of [`Self::raise_open_files_limit`].
    pub(crate) fn check_open_files_limit(&self, others: &[OpenFiles]) -> Result<u64, String> {
        runtime::check_open_files_limit(&self.open_files(others))
    }

    fn open_files(&self, others: &[OpenFiles]) -> Vec<OpenFiles> {
        let own = [
            OpenFiles::of("--max-connections", self.max_connections),
            OpenFiles::of("--max-handshakes", self.max_handshakes),
        ];
        [&own, others].concat()
    }

    /// Returns the time for which the process accepts connections after a request to stop.
    pub(crate) fn stop_delay(&self) -> Duration {
        self.stop_delay
    }

    /// Checks the flags that are used together. `listen` is the flag of the listener, and `serves` tells whether the
    /// process serves requests, which can have spans.
    ///
    /// # Errors
    /// Fails with one line about the first flag that can't be used.
    pub fn check(&self, listen: Option<ListenFlag<'_>>, serves: bool) -> Result<(), String> {
        self.spans.check(serves)?;
        self.admin.check(listen)
    }

    /// Returns the mode of the sandbox.
    #[must_use]
    pub fn sandbox(&self) -> SandboxMode {
        self.sandbox
    }

    /// Returns the use of a sandbox to which the admin listener and the collector of spans are added.
    #[must_use]
    pub fn confinement(&self, sandbox: Sandbox) -> Confinement {
        let sandbox = match self.admin.address() {
            Some(address) => sandbox.listens(address),
            None => sandbox,
        };
        Confinement::Rules(self.sandbox, self.spans.within(sandbox))
    }

    /// Returns the number of cores to serve on.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.cores.unwrap_or_else(runtime::available_cores)
    }

    /// Claims the address for operators, if there is one.
    ///
    /// # Errors
    /// Fails when it can't be listened on.
    pub fn claim_admin(&self) -> Result<ClaimedAdmin, listen::Error> {
        ClaimedAdmin::claim(&self.admin, self.reuse_port)
    }

    /// Returns whether an older process of this program may listen on the same port.
    pub(crate) fn shares_port(&self) -> bool {
        self.reuse_port
    }

    /// Claims the sockets that were passed to this process, otherwise the address of `listen`.
    ///
    /// # Errors
    /// Fails when these can't be listened on.
    pub fn claim(
        &self,
        inherited: Inherited,
        listen: ListenFlag<'_>,
    ) -> Result<ClaimedAddress, listen::Error> {
        ClaimedAddress::claim(inherited, listen, self.reuse_port, self.cores())
    }
}
