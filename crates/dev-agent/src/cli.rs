//! The command line and its environment variables, as what is to be done, and the log.

mod ctl;
mod origin;
mod values;

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use dev_agent::{Config, Entry};
use tracing_subscriber::EnvFilter;

pub(crate) use ctl::Order;
pub(crate) use values::Control;
use values::{ENDPOINT_VARIABLE, FederateFile, workload_api};

const EXAMPLES: &str = "\
Examples:
  Three programs of one user, each with an identity of its own:
    dev-agent --entry 'spiffe://example.org/server=unix:path:/usr/bin/server' \\
              --entry 'spiffe://example.org/proxy=unix:path:/usr/bin/proxy' \\
              --entry 'spiffe://example.org/client=unix:path:/usr/bin/client'

  An identity for a Unix user, with a name that curl can verify:
    dev-agent --entry 'spiffe://example.org/server=unix:user:server-workload;dns=localhost'

  Watch rotation within a minute:
    dev-agent --entry 'spiffe://example.org/me=unix:uid:1000' \\
              --x509-ttl 20s --jwt-ttl 10s --rotate-jwt-key-every 15s --rotate-ca-every 30s

  Look at the agent that runs, and take an identity away ('dev-agent ctl --help' has more):
    dev-agent ctl status
    dev-agent ctl withdraw spiffe://example.org/client

Each option can also be given in the environment, as DEV_AGENT_ and its name;
several entries in DEV_AGENT_ENTRY are separated by newlines. RUST_LOG sets how
much is logged.";

/// A SPIFFE Workload API for one machine, for development and tests only.
///
/// It gives identities to the programs on this machine, as a SPIRE agent would:
/// a program that connects to the socket is known by its user, its group and its
/// binary, and gets the SPIFFE IDs of all entries that match. Keys are made in
/// memory at start.
#[derive(Parser, Debug)]
#[command(
    version,
    after_help = EXAMPLES,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    /// Who gets which identity: SPIFFE-ID=SELECTOR[,SELECTOR…][;OPTION…]. Repeatable; a
    /// caller must have all selectors of an entry, and its first entry is its default identity.
    /// Selectors: unix:uid:N, unix:user:NAME, unix:gid:N, unix:group:NAME, unix:path:BINARY.
    /// Options: hint=TEXT, dns=NAME, x509-ttl=TIME, jwt-ttl=TIME.
    #[arg(long, required = true, env = "DEV_AGENT_ENTRY", value_delimiter = '\n')]
    entry: Vec<Entry>,

    /// Where to listen: a path, or an address of the form unix:///PATH [default: the address in
    /// SPIFFE_ENDPOINT_SOCKET, else /tmp/agent.sock].
    #[arg(long, env = "DEV_AGENT_SOCKET", value_name = "PATH", value_parser = values::socket)]
    socket: Option<PathBuf>,

    /// Where 'dev-agent ctl' of the same user, or root's, finds this agent: a path, or 'none'
    /// [default: the path of the socket and '.ctl'].
    #[arg(long, env = "DEV_AGENT_CONTROL_SOCKET", value_name = "PATH", value_parser = values::control)]
    control_socket: Option<Control>,

    /// Give workloads the trust bundle of another trust domain, from a file as
    /// `spire-server bundle show -format spiffe` prints it. Repeatable.
    #[arg(
        long,
        env = "DEV_AGENT_FEDERATE",
        value_name = "spiffe://TRUST-DOMAIN=FILE",
        value_delimiter = '\n',
        value_parser = values::federate
    )]
    federate: Vec<FederateFile>,

    /// Life of X.509-SVIDs; the next one is issued at half of it.
    #[arg(long, env = "DEV_AGENT_X509_TTL", value_name = "TIME", default_value = "1h",
        value_parser = values::duration, help_heading = "Lifetimes and rotation")]
    x509_ttl: Duration,

    /// Life of JWT-SVIDs.
    #[arg(long, env = "DEV_AGENT_JWT_TTL", value_name = "TIME", default_value = "5m",
        value_parser = values::duration, help_heading = "Lifetimes and rotation")]
    jwt_ttl: Duration,

    /// Life of the CA; the next one is made at half of it.
    #[arg(long, env = "DEV_AGENT_CA_TTL", value_name = "TIME", default_value = "24h",
        value_parser = values::duration, help_heading = "Lifetimes and rotation")]
    ca_ttl: Duration,

    /// Issue all X.509-SVIDs anew that often, besides at half of their life.
    #[arg(long, env = "DEV_AGENT_ROTATE_X509_EVERY", value_name = "TIME",
        value_parser = values::duration, help_heading = "Lifetimes and rotation")]
    rotate_x509_every: Option<Duration>,

    /// Replace the key that signs JWT-SVIDs that often.
    #[arg(long, env = "DEV_AGENT_ROTATE_JWT_KEY_EVERY", value_name = "TIME",
        value_parser = values::duration, help_heading = "Lifetimes and rotation")]
    rotate_jwt_key_every: Option<Duration>,

    /// Replace the CA that often, if that is sooner than half of its life.
    #[arg(long, env = "DEV_AGENT_ROTATE_CA_EVERY", value_name = "TIME",
        value_parser = values::duration, help_heading = "Lifetimes and rotation")]
    rotate_ca_every: Option<Duration>,
}

#[derive(Subcommand, Debug)]
enum Command {
    Ctl(ctl::Ctl),
}

/// What this process is to do.
pub(crate) enum Task {
    /// Be an agent.
    Serve(Config, Control),
    /// Move a lever of one.
    Ctl(Order),
}

/// The task of this process; exits with code 2 if there is none.
pub(crate) fn task() -> Task {
    let mut command = Cli::command();
    command
        .try_get_matches_from_mut(std::env::args_os())
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .unwrap_or_else(|error| origin::tell(error, &mut command).exit())
        .into_task(std::env::var_os(ENDPOINT_VARIABLE))
        .unwrap_or_else(|error| error.exit())
}

/// Logs lines of text; RUST_LOG says how many, and exits with code 2 if it says nothing known.
pub(crate) fn log_to_stderr() {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .from_env()
        .unwrap_or_else(|error| {
            let reason = format!("invalid value for RUST_LOG: {error}; expected for example info, debug, or warn,dev_agent=debug");
            Cli::command().error(ErrorKind::ValueValidation, reason).exit()
        });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

impl Cli {
    fn into_task(mut self, endpoint: Option<OsString>) -> Result<Task, clap::Error> {
        let (task, usage) = match self.command.take() {
            Some(Command::Ctl(ctl)) => (ctl.into_order(endpoint).map(Task::Ctl), "ctl"),
            None => {
                let control = self.control_socket.take().unwrap_or(Control::Beside);
                let config = self.into_config(endpoint);
                (config.map(|config| Task::Serve(config, control)), "")
            }
        };
        task.map_err(|reason| {
            let mut command = Self::command();
            command.build();
            let mut command = command.find_subcommand(usage).cloned().unwrap_or(command);
            command.error(ErrorKind::ValueValidation, reason)
        })
    }

    fn into_config(self, endpoint: Option<OsString>) -> Result<Config, String> {
        let socket = workload_api(self.socket, endpoint)?;
        let federated = self.federate.iter().map(FederateFile::read);
        let federated: Result<_, _> = federated.collect();
        let config = Config {
            x509_ttl: self.x509_ttl,
            jwt_ttl: self.jwt_ttl,
            ca_ttl: self.ca_ttl,
            rotate_x509_every: self.rotate_x509_every,
            rotate_jwt_key_every: self.rotate_jwt_key_every,
            rotate_ca_every: self.rotate_ca_every,
            federated: federated.map_err(|reason| format!("--federate: {reason}"))?,
            ..Config::new(socket, self.entry)
        };
        match config.check() {
            Ok(_) => Ok(config),
            Err(error) => Err(origin::of_setting(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str], endpoint: Option<&str>) -> Result<Config, String> {
        let entry = ["dev-agent", "--entry", "spiffe://example.org/a=unix:uid:1"];
        let cli = Cli::try_parse_from(entry.iter().chain(args));
        match cli.and_then(|cli| cli.into_task(endpoint.map(Into::into))) {
            Ok(Task::Serve(config, _)) => Ok(config),
            Ok(Task::Ctl(_)) => panic!("not ctl"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_socket_is_that_of_the_option_then_of_the_clients_then_the_default() {
        for (args, endpoint, expected) in [
            (&[][..], None, "/tmp/agent.sock"),
            (&[], Some("unix:///run/a.sock"), "/run/a.sock"),
            (
                &["--socket", "/run/b.sock"],
                Some("unix:///run/a.sock"),
                "/run/b.sock",
            ),
            (&["--socket", "unix:///run/b.sock"], None, "/run/b.sock"),
            (&["--socket", "unix:/run/b.sock"], None, "/run/b.sock"),
            (&["--socket", "b.sock"], None, "b.sock"),
        ] {
            let config = parse(args, endpoint).unwrap();
            assert_eq!(config.socket, PathBuf::from(expected));
        }
    }

    #[test]
    fn w002_bad_values_are_refused_with_the_setting_the_value_and_the_remedy() {
        for (args, endpoint, parts) in [
            (
                &["--socket", "tcp://1.2.3.4:5"][..],
                None,
                ["--socket", "unix:///PATH"],
            ),
            (
                &["--socket", "unix://a/b"],
                None,
                ["--socket", "unix:///PATH"],
            ),
            (
                &["--socket", "unix:///"],
                None,
                ["--socket", "unix:///PATH"],
            ),
            (&["--socket", ""], None, ["--socket", "unix:///PATH"]),
            (
                &[],
                Some(""),
                ["SPIFFE_ENDPOINT_SOCKET: ''", "unix:///PATH"],
            ),
            (
                &[],
                Some("/run/a.sock"),
                ["SPIFFE_ENDPOINT_SOCKET", "unix:///PATH"],
            ),
            (
                &["--jwt-ttl", "5"],
                None,
                ["'5' for '--jwt-ttl", "for example 90s"],
            ),
            (
                &["--jwt-ttl", "1ms"],
                None,
                ["--jwt-ttl (or DEV_AGENT_JWT_TTL): 1ms", "between 1s and"],
            ),
            (
                &["--entry", "x"],
                None,
                ["entry 'x'", "unix:user:server-workload"],
            ),
            (
                &["--entry", "spiffe://b.test/a=unix:uid:1"],
                None,
                ["b.test", "start another agent"],
            ),
            (
                &["--federate", "b.test=/f"],
                None,
                ["--federate", "such as spiffe://example.com"],
            ),
            (
                &["--federate", "spiffe://b.test=/nowhere"],
                None,
                ["--federate", "cannot read /nowhere"],
            ),
        ] {
            let error = parse(args, endpoint).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[test]
    fn the_command_is_well_formed() {
        Cli::command().debug_assert();
    }
}
