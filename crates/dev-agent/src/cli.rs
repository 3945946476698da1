//! The command line and its environment variables, as a [`Config`], and the log.

use std::ffi::OsString;
use std::fs::File;
use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser};
use dev_agent::{Config, Entry, FederatedBundle};
use spiffe::TrustDomain;
use tracing_subscriber::EnvFilter;

const DEFAULT_SOCKET: &str = "/tmp/agent.sock";
/// The standard's variable, in which clients find the agent (Workload Endpoint §4).
const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
/// Longer files are refused when they are parsed.
const MAX_BUNDLE_FILE: u64 = (1 << 20) + 1;

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
#[command(version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    /// Who gets which identity: SPIFFE-ID=SELECTOR[,SELECTOR…][;OPTION…]. Repeatable; a
    /// caller must have all selectors of an entry, and its first entry is its default identity.
    /// Selectors: unix:uid:N, unix:user:NAME, unix:gid:N, unix:group:NAME, unix:path:BINARY.
    /// Options: hint=TEXT, dns=NAME, x509-ttl=TIME, jwt-ttl=TIME.
    #[arg(long, required = true, env = "DEV_AGENT_ENTRY", value_delimiter = '\n')]
    entry: Vec<Entry>,

    /// Where to listen: a path, or an address of the form unix:///PATH [default: the address in
    /// SPIFFE_ENDPOINT_SOCKET, else /tmp/agent.sock].
    #[arg(long, env = "DEV_AGENT_SOCKET", value_parser = socket)]
    socket: Option<PathBuf>,

    /// Give workloads the trust bundle of another trust domain, from a file as
    /// `spire-server bundle show -format spiffe` prints it. Repeatable.
    #[arg(
        long,
        env = "DEV_AGENT_FEDERATE",
        value_name = "spiffe://TRUST-DOMAIN=FILE",
        value_delimiter = '\n',
        value_parser = federate
    )]
    federate: Vec<FederatedBundle>,

    /// Life of X.509-SVIDs; the next one is issued at half of it.
    #[arg(long, env = "DEV_AGENT_X509_TTL", value_name = "TIME", default_value = "1h",
        value_parser = humantime::parse_duration, help_heading = "Lifetimes and rotation")]
    x509_ttl: Duration,

    /// Life of JWT-SVIDs.
    #[arg(long, env = "DEV_AGENT_JWT_TTL", value_name = "TIME", default_value = "5m",
        value_parser = humantime::parse_duration, help_heading = "Lifetimes and rotation")]
    jwt_ttl: Duration,

    /// Life of the CA; the next one is made at half of it.
    #[arg(long, env = "DEV_AGENT_CA_TTL", value_name = "TIME", default_value = "24h",
        value_parser = humantime::parse_duration, help_heading = "Lifetimes and rotation")]
    ca_ttl: Duration,

    /// Issue all X.509-SVIDs anew that often, besides at half of their life.
    #[arg(long, env = "DEV_AGENT_ROTATE_X509_EVERY", value_name = "TIME",
        value_parser = humantime::parse_duration, help_heading = "Lifetimes and rotation")]
    rotate_x509_every: Option<Duration>,

    /// Replace the key that signs JWT-SVIDs that often.
    #[arg(long, env = "DEV_AGENT_ROTATE_JWT_KEY_EVERY", value_name = "TIME",
        value_parser = humantime::parse_duration, help_heading = "Lifetimes and rotation")]
    rotate_jwt_key_every: Option<Duration>,

    /// Replace the CA that often, if that is sooner than half of its life.
    #[arg(long, env = "DEV_AGENT_ROTATE_CA_EVERY", value_name = "TIME",
        value_parser = humantime::parse_duration, help_heading = "Lifetimes and rotation")]
    rotate_ca_every: Option<Duration>,
}

/// The configuration of this process; exits with code 2 if there is none.
pub(crate) fn config() -> Config {
    Cli::parse()
        .into_config(std::env::var_os(ENDPOINT_VARIABLE))
        .unwrap_or_else(|error| error.exit())
}

/// Logs lines of text; RUST_LOG says how many.
pub(crate) fn log_to_stderr() {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

impl Cli {
    fn into_config(self, endpoint: Option<OsString>) -> Result<Config, clap::Error> {
        let refused = |message| Self::command().error(ErrorKind::ValueValidation, message);
        let socket = match (self.socket, endpoint) {
            (Some(socket), _) => socket,
            (None, Some(endpoint)) => endpoint_path(&endpoint.to_string_lossy())
                .map_err(|reason| refused(format!("{ENDPOINT_VARIABLE}: {reason}")))?,
            (None, None) => DEFAULT_SOCKET.into(),
        };
        let config = Config {
            x509_ttl: self.x509_ttl,
            jwt_ttl: self.jwt_ttl,
            ca_ttl: self.ca_ttl,
            rotate_x509_every: self.rotate_x509_every,
            rotate_jwt_key_every: self.rotate_jwt_key_every,
            rotate_ca_every: self.rotate_ca_every,
            federated: self.federate,
            ..Config::new(socket, self.entry)
        };
        match config.check() {
            Ok(_) => Ok(config),
            Err(error) => Err(refused(error.to_string())),
        }
    }
}

/// A path as it is, or an address that clients would be given.
fn socket(text: &str) -> Result<PathBuf, String> {
    if text.starts_with("unix:") {
        return endpoint_path(text);
    }
    if text.is_empty() || text.contains("://") || text.starts_with("tcp:") {
        return Err("give the path of a Unix socket, or unix:///PATH; no other transport tells who the caller is".to_owned());
    }
    Ok(text.into())
}

fn endpoint_path(text: &str) -> Result<PathBuf, String> {
    let path = text
        .strip_prefix("unix://")
        .or_else(|| text.strip_prefix("unix:"))
        .filter(|path| path.starts_with('/') && *path != "/" && !path.contains(['?', '#', '%']));
    match path {
        Some(path) if !path.starts_with("//") => Ok(path.into()),
        _ => Err(format!("'{text}' is not of the form unix:///PATH")),
    }
}

fn federate(text: &str) -> Result<FederatedBundle, String> {
    let (domain, path) = text
        .split_once('=')
        .ok_or("there is no '=' between the trust domain and the file")?;
    let trust_domain = TrustDomain::new(domain)
        .ok()
        .filter(|trust_domain| trust_domain.id_string() == domain)
        .ok_or("what is before '=' is not a trust domain such as spiffe://example.com")?;
    let mut document = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BUNDLE_FILE).read_to_string(&mut document))
        .map_err(|error| format!("cannot read {path}: {error}"))?;
    FederatedBundle::parse(trust_domain, &document).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str], endpoint: Option<&str>) -> Result<Config, String> {
        let entry = ["dev-agent", "--entry", "spiffe://example.org/a=unix:uid:1"];
        Cli::try_parse_from(entry.iter().chain(args))
            .and_then(|cli| cli.into_config(endpoint.map(Into::into)))
            .map_err(|error| error.to_string())
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
                ["'5' for '--jwt-ttl", "time unit"],
            ),
            (
                &["--jwt-ttl", "1ms"],
                None,
                ["jwt-ttl: 1ms", "between 1s and"],
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
