//! The command line with its environment variables, and the log.

mod ctl;
mod federation;
mod origin;
mod values;

use std::{ffi::OsString, io::IsTerminal, path::PathBuf, time::Duration};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use dev_agent::{Config, Entry};
use tracing_subscriber::EnvFilter;

use self::values::{ENDPOINT_VARIABLE, FederateFile, workload_api};
pub(crate) use self::{ctl::CtlRequest, values::Control};

const EXAMPLES: &str = "\
Examples:
  Three programs of one user, each with an identity of its own:
    dev-agent --entry 'spiffe://example.org/server=unix:path:/usr/bin/server' \\
              --entry 'spiffe://example.org/proxy=unix:path:/usr/bin/proxy' \\
              --entry 'spiffe://example.org/client=unix:path:/usr/bin/client'

  An identity for a Unix user, with a name that curl can verify:
    dev-agent --entry \\
        'spiffe://example.org/server=unix:user:server-workload;dns=localhost'

  Watch rotation within a minute:
    dev-agent --entry 'spiffe://example.org/me=unix:uid:1000' \\
              --x509-ttl 20s --jwt-ttl 10s \\
              --rotate-jwt-key-every 15s --rotate-ca-every 30s

  Serve the trust bundle to another trust domain, and fetch that domain's:
    dev-agent --entry 'spiffe://example.org/server=unix:user:server-workload' \\
              --bundle-endpoint '[::]:8443' \\
              --federate-with \\
        'spiffe://example.com=https://spire.example.com:8443;bundle=com.json'

  Show the running agent, and withdraw an identity:
    dev-agent ctl status
    dev-agent ctl withdraw spiffe://example.org/client
  'dev-agent ctl --help' has more.

Each option can also be set by an environment variable: DEV_AGENT_ and its name.
Newlines separate several values in DEV_AGENT_ENTRY and the like. RUST_LOG
selects what is logged.";

/// A SPIFFE Workload API for one machine, for development and tests only.
///
/// It issues identities to the programs on this machine, like a SPIRE agent. It attests a program
/// that connects by its user, its group and its binary. The program gets the SPIFFE IDs of all
/// entries that match. Keys are made at the start and kept in memory.
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
    command: Option<CliCommand>,

    /// Registration entry: SPIFFE-ID=SELECTOR[,SELECTOR…][;OPTION…]. Repeatable. A caller must have
    /// all selectors of an entry. Its first match is its default identity. Selectors: unix:uid:N,
    /// unix:user:NAME, unix:gid:N, unix:group:NAME, unix:path:BINARY. Options: hint=TEXT, dns=NAME,
    /// x509-ttl=TIME, jwt-ttl=TIME.
    #[arg(long, required = true, env = "DEV_AGENT_ENTRY", value_delimiter = '\n')]
    entry: Vec<Entry>,

    /// Socket to listen on: a path, or an address of the form unix:///PATH [default:
    /// SPIFFE_ENDPOINT_SOCKET, otherwise /tmp/agent.sock].
    #[arg(long, env = "DEV_AGENT_SOCKET", value_name = "PATH", value_parser = values::socket)]
    socket: Option<PathBuf>,

    /// Socket for 'dev-agent ctl' of the same user or of root: a path, or 'none' [default: the path
    /// of the socket and '.ctl'].
    #[arg(long, env = "DEV_AGENT_CONTROL_SOCKET", value_name = "PATH", value_parser = values::control)]
    control_socket: Option<Control>,

    #[command(flatten)]
    federation: federation::Federation,

    /// Life of X.509-SVIDs. The next one is issued at half of it.
    #[arg(long, env = "DEV_AGENT_X509_TTL", value_name = "TIME", default_value = "1h",
        value_parser = values::duration, help_heading = "Lifetimes and rotation")]
    x509_ttl: Duration,

    /// Life of JWT-SVIDs.
    #[arg(long, env = "DEV_AGENT_JWT_TTL", value_name = "TIME", default_value = "5m",
        value_parser = values::duration, help_heading = "Lifetimes and rotation")]
    jwt_ttl: Duration,

    /// Life of the CA. The next one is made at half of it.
    #[arg(long, env = "DEV_AGENT_CA_TTL", value_name = "TIME", default_value = "24h",
        value_parser = values::duration, help_heading = "Lifetimes and rotation")]
    ca_ttl: Duration,

    /// Time after which all X.509-SVIDs are issued again [default: at half of their life only].
    #[arg(long, env = "DEV_AGENT_ROTATE_X509_EVERY", value_name = "TIME",
        value_parser = values::duration, help_heading = "Lifetimes and rotation")]
    rotate_x509_every: Option<Duration>,

    /// Time after which the key that signs JWT-SVIDs is replaced [default: never].
    #[arg(long, env = "DEV_AGENT_ROTATE_JWT_KEY_EVERY", value_name = "TIME",
        value_parser = values::duration, help_heading = "Lifetimes and rotation")]
    rotate_jwt_key_every: Option<Duration>,

    /// Time after which the CA is replaced [default: half of its life, which is also the maximum].
    #[arg(long, env = "DEV_AGENT_ROTATE_CA_EVERY", value_name = "TIME",
        value_parser = values::duration, help_heading = "Lifetimes and rotation")]
    rotate_ca_every: Option<Duration>,
}

#[derive(Subcommand, Debug)]
enum CliCommand {
    Ctl(ctl::Ctl),
}

/// The task of this process.
pub(crate) enum Task {
    /// Serves the Workload API.
    Serve(Box<Config>, Control),
    /// Sends a command to a running agent.
    Ctl(CtlRequest),
}

/// Parses the command line. Exits with status 2 if it is wrong.
pub(crate) fn task() -> Task {
    let mut command = Cli::command();
    command
        .try_get_matches_from_mut(std::env::args_os())
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .unwrap_or_else(|error| origin::with_origin(error, &mut command).exit())
        .into_task(std::env::var_os(ENDPOINT_VARIABLE))
        .unwrap_or_else(|error| error.exit())
}

/// Logs lines of text to standard error. Exits with status 2 if RUST_LOG is wrong.
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
            Some(CliCommand::Ctl(ctl)) => (ctl.into_request(endpoint).map(Task::Ctl), "ctl"),
            None => {
                let control = self.control_socket.take().unwrap_or(Control::Default);
                let config = self.into_config(endpoint);
                (
                    config.map(|config| Task::Serve(Box::new(config), control)),
                    "",
                )
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
        let federated = self.federation.federate.iter().map(FederateFile::read);
        let federated: Result<_, _> = federated.collect();
        let (bundle_endpoint, oidc_endpoint) = self.federation.endpoints()?;
        let config = Config {
            x509_ttl: self.x509_ttl,
            jwt_ttl: self.jwt_ttl,
            ca_ttl: self.ca_ttl,
            rotate_x509_every: self.rotate_x509_every,
            rotate_jwt_key_every: self.rotate_jwt_key_every,
            rotate_ca_every: self.rotate_ca_every,
            federated: federated.map_err(|reason| format!("--federate: {reason}"))?,
            partners: self.federation.partners()?,
            bundle_endpoint,
            oidc_endpoint,
            jwt_issuer: self.federation.jwt_issuer,
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

    pub(super) fn parse(args: &[&str], endpoint: Option<&str>) -> Result<Config, String> {
        let entry = ["dev-agent", "--entry", "spiffe://example.org/a=unix:uid:1"];
        let cli = Cli::try_parse_from(entry.iter().chain(args));
        match cli.and_then(|cli| cli.into_task(endpoint.map(Into::into))) {
            Ok(Task::Serve(config, _)) => Ok(*config),
            Ok(Task::Ctl(_)) => panic!("not ctl"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_socket_is_that_of_the_option_then_of_the_environment_then_the_default() {
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
    fn bad_values_are_refused_with_setting_value_and_remedy_w002() {
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
    fn clap_accepts_the_command_definition() {
        Cli::command().debug_assert();
    }
}
