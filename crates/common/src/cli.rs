//! The command line that the binaries share: environment variables, value parsers, common flags.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use clap::{
    Args, CommandFactory, FromArgMatches,
    error::{ContextKind, ContextValue, ErrorKind},
};
use http::{Uri, uri::Authority};
use spiffe::SpiffeId;
use tracing::level_filters::LevelFilter;

use crate::{
    process, runtime,
    serve::{Admission, Bounds, Limits},
    telemetry::{self, LogFormat},
    tls,
    workload::{Address, WorkloadApi},
};

/// What every binary's `main` does: reads flags and environment, starts logs and crypto, runs.
///
/// Every flag has an environment variable: `prefix`, `_`, its name. Bad input ends the process with
/// status 2 before anything else happens; a failure of `run` is logged once and is status 1.
pub fn main<C, F>(prefix: &str, default_level: LevelFilter, run: impl FnOnce(C) -> F) -> ExitCode
where
    C: CommandFactory + FromArgMatches + AsRef<LogArgs>,
    F: Future<Output = anyhow::Result<ExitCode>>,
{
    let mut command = with_environment(C::command(), prefix);
    let config = command
        .try_get_matches_from_mut(std::env::args_os())
        .and_then(|matches| C::from_arg_matches(&matches))
        .unwrap_or_else(|error| with_origin(error, &command).format(&mut command).exit());
    if let Err(error) = telemetry::init(config.as_ref().log_format, default_level) {
        command.error(ErrorKind::InvalidValue, error).exit();
    }
    process::forbid_core_dumps();
    tls::install_crypto_provider();
    let status = runtime::run(run(config));
    telemetry::flush();
    status
}

/// Gives every argument an environment variable, unless it has one of its own.
fn with_environment(command: clap::Command, prefix: &str) -> clap::Command {
    command.mut_args(|arg| match arg.get_env() {
        Some(_) => arg,
        None => {
            let name = arg
                .get_long()
                .unwrap_or_else(|| arg.get_id().as_str())
                .to_ascii_uppercase()
                .replace('-', "_");
            arg.env(format!("{prefix}_{name}")).hide_env(true)
        }
    })
}

/// A bad value that came from the environment is hard to find by the name of a flag: says so.
fn with_origin(mut error: clap::Error, command: &clap::Command) -> clap::Error {
    let variable = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(invalid)) => command
            .get_arguments()
            .find(|arg| arg.to_string() == *invalid)
            .and_then(|arg| arg.get_env())
            .filter(|variable| std::env::var_os(variable).is_some()),
        _ => None,
    };
    if let Some(variable) = variable {
        let tip = format!("the environment variable {} is set", variable.display());
        error.insert(
            ContextKind::Suggested,
            ContextValue::StyledStrs(vec![tip.into()]),
        );
    }
    error
}

/// Where identity comes from.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Identity")]
pub struct WorkloadApiArgs {
    /// Address of the SPIFFE Workload API
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "SPIFFE_ENDPOINT_SOCKET",
        hide_env_values = true,
        default_value = "unix:///tmp/agent.sock"
    )]
    workload_api: Address,
}

impl WorkloadApiArgs {
    /// The Workload API that the flags name, given `timeout` to issue an identity.
    #[must_use]
    pub fn workload_api(&self, timeout: Duration) -> WorkloadApi {
        WorkloadApi::new(self.workload_api.clone(), timeout)
    }
}

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
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64))]
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
    /// Cores to serve on, each with a listener of its own [default: all that this process may use]
    #[arg(long, value_name = "N", value_parser = positive)]
    cores: Option<usize>,
}

impl ServeArgs {
    /// The deadlines and bounds that the flags set. Raises the limit of open files to fit them, and
    /// warns when it can't.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let (connections, handshakes) = (self.max_connections, self.max_handshakes);
        runtime::allow_open_files(connections.saturating_add(handshakes));
        Limits {
            handshake_timeout: self.handshake_timeout,
            header_timeout: self.header_timeout,
            idle_timeout: self.idle_timeout,
            body_timeout: self.body_timeout,
            max_body: self.max_body,
            drain_timeout: self.drain_timeout,
            admission: Admission::new(Bounds {
                connections,
                per_source: self
                    .max_connections_per_address
                    .unwrap_or_else(|| connections.div_ceil(2)),
                handshakes,
            }),
        }
    }

    /// How many cores to serve on.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.cores.unwrap_or_else(runtime::available_cores)
    }
}

/// How to log.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logs (standard error; RUST_LOG selects what is logged)")]
pub struct LogArgs {
    /// text for people or json for machines
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "text",
        hide_possible_values = true
    )]
    log_format: LogFormat,
}

/// Longer is a mistake, and sums of such times must not overflow the clock.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Parses a time with its unit: more than zero, at most a year.
///
/// # Errors
/// When it is none, with a right example.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration > MAX_DURATION => {
            Err("must be at most a year; expected for example 30s".into())
        }
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err("must be more than zero; expected for example 30s".into()),
        Err(_) => Err("expected a number and a unit, for example 500ms, 30s, 5m, or 1h 30m".into()),
    }
}

/// Parses a count of at least 1.
///
/// # Errors
/// When it is none.
pub fn positive(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|&n| n > 0)
        .ok_or_else(|| "expected a whole number of at least 1".into())
}

/// Parses an IP address and port to listen on.
///
/// # Errors
/// When it is none, with right examples.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "expected an IP address and a port, for example [::]:8080 or 127.0.0.1:8080".into()
    })
}

/// Parses the SPIFFE ID of a workload: with a path.
///
/// # Errors
/// When it is none, with a right example.
pub fn workload_id(text: &str) -> Result<SpiffeId, String> {
    let id = SpiffeId::new(text)
        .map_err(|error| format!("{error}; expected for example spiffe://example.org/server"))?;
    match id.path() {
        "" => Err("a SPIFFE ID without a path names a trust domain, not a workload; expected for example spiffe://example.org/server".into()),
        _ => Ok(id),
    }
}

/// Parses a non-empty audience (JWT-SVID §3.2).
///
/// # Errors
/// When it is empty, or holds what no audience has.
pub fn audience(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err("an audience must not be empty or hold control characters; expected for example spiffe://example.org/server".into());
    }
    Ok(text.to_owned())
}

/// Parses an `https://` URL: a host, and whatever comes after it.
///
/// # Errors
/// When it is none, or could send a token in clear, with a right example.
pub fn https_url(text: &str) -> Result<Uri, String> {
    let error = |rule: &str| format!("{rule}; expected for example https://localhost:8443/");
    if text.contains('#') {
        return Err(error("a URL to request has no fragment"));
    }
    let url: Uri = text
        .parse()
        .map_err(|fault| error(&format!("not a URL: {fault}")))?;
    match (url.scheme_str(), url.authority()) {
        (Some("https"), Some(authority)) if authority.as_str().contains('@') => {
            Err(error("credentials don't belong in a URL"))
        }
        (Some("https"), Some(authority)) if authority.host().is_empty() => {
            Err(error("the host is missing"))
        }
        (Some("https"), Some(authority)) if has_bad_port(authority) => {
            Err(error("the port must be from 1 to 65535"))
        }
        (Some("https"), Some(_)) => Ok(url),
        (Some("http"), _) => Err(error("http would send the token in clear")),
        _ => Err(error("the scheme must be https")),
    }
}

/// What is written as a port and is none would silently become 443.
fn has_bad_port(authority: &Authority) -> bool {
    let written = authority.as_str().len() > authority.host().len();
    written && authority.port_u16().is_none_or(|port| port == 0)
}

/// Parses an upstream: scheme, host and port of a URL, nothing after them.
///
/// # Errors
/// When it is none, or has a path: the request's own path is kept.
pub fn upstream(text: &str) -> Result<Uri, String> {
    let url = https_url(text).map_err(|error| error.replace("8443/", "8080"))?;
    match url.path_and_query().map(http::uri::PathAndQuery::as_str) {
        None | Some("" | "/") => Ok(url),
        Some(_) => Err("an upstream has no path, the request's own is kept; expected for example https://localhost:8080".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_a_length() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        for text in [
            "",
            "30",
            "0s",
            "-1s",
            "1 fortnight",
            "s",
            "366days",
            "18446744073709551615s",
        ] {
            assert!(duration(text).unwrap_err().contains("30s"), "{text}");
        }
    }

    #[test]
    fn a_workload_has_a_path() {
        assert!(workload_id("spiffe://example.org/server").is_ok());
        for text in [
            "",
            "server",
            "spiffe://example.org",
            "spiffe://example.org/",
            "https://example.org/server",
            "spiffe://example.org/a b",
        ] {
            assert!(
                workload_id(text)
                    .unwrap_err()
                    .contains("spiffe://example.org/server"),
                "{text}"
            );
        }
    }

    #[test]
    fn urls_are_https_with_a_host() {
        for text in [
            "https://localhost",
            "https://localhost:8443/",
            "https://[::1]:8443/a?b=c",
        ] {
            assert!(https_url(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "/",
            "localhost:8443",
            "http://localhost:8443/",
            "ftp://a/",
            "https://",
            "https://u:p@a/",
            "https://a:99999/",
            "https://a:0/",
            "https://a:/",
            "https://a/#b",
            "https://a b/",
        ] {
            assert!(
                https_url(text)
                    .unwrap_err()
                    .contains("https://localhost:8443/"),
                "{text}"
            );
        }
    }

    #[test]
    fn an_upstream_has_no_path() {
        assert!(upstream("https://localhost:8080").is_ok());
        assert!(upstream("https://localhost:8080/").is_ok());
        for text in [
            "https://localhost:8080/api",
            "https://localhost:8080?a",
            "http://localhost:8080",
        ] {
            assert!(
                upstream(text)
                    .unwrap_err()
                    .contains("https://localhost:8080"),
                "{text}"
            );
        }
    }

    #[test]
    fn an_audience_is_not_empty() {
        assert_eq!(
            audience("spiffe://example.org/server").unwrap(),
            "spiffe://example.org/server"
        );
        assert!(audience("").is_err());
        assert!(audience("a\0b").is_err());
    }
}
