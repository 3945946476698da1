//! The flags that describe the application behind the server.

use std::time::Duration;

use clap::Args;
use common::{tls, workload::X509Source};
use forward::{
    FieldPolicy,
    outbound::{Protocol, Security, Upstream, UpstreamUrl},
};
use http::{HeaderName, header};
use process::{
    cli::{self, UpstreamArgs},
    runtime::OpenFiles,
};
use spiffe::SpiffeId;

use crate::lifetime::StreamLifetime;

/// The application that requests with a verified caller are forwarded to.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Application")]
pub struct ApplicationArgs {
    /// Application to forward to, instead of the built-in answer: http://127.0.0.1:3000,
    /// h2c://127.0.0.1:50051 (HTTP/2 without TLS, for gRPC), unix:/run/app.sock, unix+h2c:/run/app.sock, or
    /// https://HOST:PORT with --upstream-id; repeatable
    #[arg(
        long = "upstream",
        value_name = "URL",
        group = "guarded",
        value_delimiter = ',',
        value_parser = cli::application
    )]
    upstreams: Vec<UpstreamUrl>,
    /// SPIFFE ID that an https application must have; verified on every connection
    #[arg(long, value_name = "ID", requires = "upstreams", value_parser = cli::workload_id)]
    pub(crate) upstream_id: Option<SpiffeId>,
    /// Forward without TLS to an application that may be on another machine. An attacker on the path can read
    /// and change requests, and speak for any caller
    #[arg(long, requires = "upstreams")]
    plaintext_upstream: bool,
    /// Header field that gives the application the caller's verified SPIFFE ID. Copies that callers send are removed
    #[arg(long, value_name = "NAME", default_value = "x-spiffe-id", requires = "guarded", value_parser = caller_header)]
    pub(crate) caller_header: HeaderName,
    /// Also forward Authorization. An application that logs it, or sends it on, leaks the caller's token
    #[arg(long, requires = "guarded")]
    pub(crate) forward_authorization: bool,
    /// End of WebSockets and of answers that are sent as they come: connection lets them continue after the
    /// caller's token has expired; token ends them then, or when the caller's certificate expires if that is
    /// its credential. A WebSocket gets a Close frame (1008), a gRPC call UNAUTHENTICATED, and any other answer
    /// breaks off. Public requests have no end, and --enforce observe ends nothing
    #[arg(
        long,
        value_name = "END",
        default_value = "connection",
        hide_possible_values = true,
        requires = "upstreams"
    )]
    pub(crate) stream_lifetime: StreamLifetime,
    /// The deadlines and the bound.
    #[command(flatten)]
    connections: UpstreamArgs,
}

impl ApplicationArgs {
    /// Returns the application, or `None` for the built-in answer. The answer to a gRPC call may be silent
    /// for `call_timeout`.
    ///
    /// # Errors
    /// Fails when flags contradict each other, or when requests would leave this machine without TLS.
    pub fn upstream(&self, call_timeout: Duration) -> Result<Option<Upstream>, String> {
        let Some(first) = self.upstreams.first() else {
            return Ok(None);
        };
        let is_https = |url: &&UpstreamUrl| url.protocol() == Protocol::Https;
        let https = self.upstreams.iter().find(is_https);
        let plaintext = self.upstreams.iter().find(|url| !is_https(url));
        match (https, plaintext, &self.upstream_id) {
            (Some(https), Some(plaintext), _) => Err(format!(
                "--upstream {https} and --upstream {plaintext}: either all use https, or none does"
            )),
            (Some(https), None, None) => Err(format!(
                "--upstream {https} needs --upstream-id: the SPIFFE ID that the application must have, for example --upstream-id {EXAMPLE_ID}"
            )),
            (None, _, Some(id)) => Err(format!(
                "--upstream-id {id}: {first} has no TLS, so nothing can be verified; use https, or leave --upstream-id out"
            )),
            _ => self.check_plaintext(),
        }?;
        self.connections
            .upstream(&self.upstreams, call_timeout)
            .map(Some)
    }

    /// Returns the security of connections to the application.
    pub(crate) fn security(&self, x509: &X509Source) -> Security {
        match &self.upstream_id {
            Some(id) => tls::client(x509, id).into(),
            None => Security::Plaintext,
        }
    }

    /// Returns the URLs of the application.
    #[must_use]
    pub fn urls(&self) -> &[UpstreamUrl] {
        &self.upstreams
    }

    fn check_plaintext(&self) -> Result<(), String> {
        let leaves = |url: &&UpstreamUrl| url.protocol().is_plaintext() && !url.is_local();
        match self.upstreams.iter().find(leaves) {
            Some(url) if !self.plaintext_upstream => Err(format!(
                "--upstream {url} may be on another machine, and has no TLS: an attacker on the path could speak for any caller; use a loopback address, unix: or https, or accept it with --plaintext-upstream"
            )),
            _ => Ok(()),
        }
    }

    /// Returns the choices about the fields of forwarded requests.
    #[must_use]
    pub fn fields(&self) -> FieldPolicy {
        let mut removed = vec![self.caller_header.clone()];
        if !self.forward_authorization {
            removed.push(header::AUTHORIZATION);
        }
        FieldPolicy {
            keeps_host: true,
            removed: removed.into(),
            hides_caller: false,
        }
    }

    /// Returns the open files of connections to the application on this number of cores.
    #[must_use]
    pub fn open_files(&self, cores: usize) -> Option<OpenFiles> {
        let count = self.upstreams.len();
        (count > 0).then(|| self.connections.open_files(count, cores))
    }
}

const EXAMPLE_ID: &str = "spiffe://example.org/app";

/// Fields that have a meaning of their own, so that they can't carry an ID.
const TAKEN: [HeaderName; 8] = [
    header::AUTHORIZATION,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::COOKIE,
    header::HOST,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Parses the name of the field for the caller's SPIFFE ID.
fn caller_header(text: &str) -> Result<HeaderName, String> {
    match text.parse() {
        Ok(name) if TAKEN.contains(&name) => Err(format!(
            "{name} has another meaning; expected for example x-spiffe-id"
        )),
        // Some servers read `_` and `-` as the same, so that a caller could send a second one.
        Ok(name) if !name.as_str().contains('_') => Ok(name),
        _ => Err("expected a header name without underscores, for example x-spiffe-id".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        application: ApplicationArgs,
    }

    fn urls(args: &[&str]) -> Result<Option<Vec<String>>, String> {
        let parsed = Alone::try_parse_from(["server"].iter().chain(args));
        let args = parsed.map_err(|error| error.to_string())?.application;
        let text = |upstream: Upstream| upstream.urls.iter().map(ToString::to_string).collect();
        Ok(args.upstream(Duration::from_secs(1))?.map(text))
    }

    #[test]
    fn an_application_on_this_machine_or_with_an_identity_is_accepted() {
        for (args, expected) in [
            (&[] as &[&str], None),
            (
                &["--upstream", "http://127.0.0.1:3000"],
                Some("http://127.0.0.1:3000/"),
            ),
            (
                &["--upstream", "h2c://[::1]:3000"],
                Some("h2c://[::1]:3000/"),
            ),
            (
                &["--upstream", "unix:/run/app.sock"],
                Some("unix:/run/app.sock"),
            ),
            (
                &["--upstream", "http://app:80", "--plaintext-upstream"],
                Some("http://app:80/"),
            ),
            (
                &["--upstream", "https://app", "--upstream-id", EXAMPLE_ID],
                Some("https://app/"),
            ),
        ] {
            let expected = expected.map(|url| vec![url.to_owned()]);
            assert_eq!(urls(args), Ok(expected), "{args:?}");
        }
    }

    #[test]
    fn an_application_that_cannot_be_trusted_is_refused_with_the_remedy() {
        for (args, text) in [
            (
                &["--upstream", "http://app:80"] as &[&str],
                "accept it with --plaintext-upstream",
            ),
            (
                &["--upstream", "h2c://0.0.0.0:80"],
                "accept it with --plaintext-upstream",
            ),
            (&["--upstream", "https://app"], "needs --upstream-id"),
            (
                &["--upstream", "http://[::1]:1", "--upstream-id", EXAMPLE_ID],
                "nothing can be verified",
            ),
            (
                &[
                    "--upstream",
                    "https://app,http://[::1]:1",
                    "--upstream-id",
                    EXAMPLE_ID,
                ],
                "either all use https, or none does",
            ),
            (&["--upstream", "unix:/a,unix:/a"], "is given twice"),
            (&["--upstream", "ftp://a"], "the scheme must be"),
            (&["--upstream-id", EXAMPLE_ID], "--upstream <URL>"),
            (&["--plaintext-upstream"], "--upstream <URL>"),
            (&["--stream-lifetime", "token"], "--upstream <URL>"),
            (
                &["--upstream", "unix:/a", "--stream-lifetime", "request"],
                "possible values: connection, token",
            ),
            (&["--caller-header", "x-id"], "--upstream <URL>"),
            (&["--caller-header", "host"], "host has another meaning"),
            (&["--caller-header", "x_id"], "without underscores"),
            (&["--caller-header", "a b"], "expected a header name"),
        ] {
            let error = urls(args).unwrap_err();
            assert!(error.contains(text), "{args:?}: {error}");
        }
    }
}
