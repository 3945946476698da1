//! Flags and environment of the client, typed and checked.

mod request;

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use forward::outbound::{ExclusiveLimit, Protocol, Timeouts, Upstream, UpstreamUrl};
use http::{HeaderName, HeaderValue, Method, Uri, uri::Authority};
use process::{
    cli::{self, LogArgs, WorkloadApiArgs},
    doctor::DoctorArgs,
};
use rustls::pki_types::ServerName;
use spiffe::SpiffeId;
use tracing::{level_filters::LevelFilter, warn};

use crate::{
    explain::config::ExplainArgs,
    listening::config::ListenArgs,
    peer::{PeerIdentity, server_name},
    route::Route,
    token_file::config::TokenFileArgs,
    web_pki::CaFile,
};

/// The name of the program in metrics and spans.
pub(crate) const ROLE: &str = "client";

/// Flags and environment.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "client",
    version,
    max_term_width = 100,
    about = "Makes requests as this workload, with a SPIFFE JWT-SVID, to a verified server\n\n\
        It fetches a JWT-SVID for AUDIENCE, verifies the SPIFFE ID of the server before a byte of the \
        request is sent, and prints the response's body. The exit status is 0 if the response's was 2xx. \
        With --listen, it does so for the requests of applications on this machine. With --token-file, \
        it keeps the token in a file for an application.",
    after_help = "\
With --repeat or --every, the client prints a line for each request: its start (UTC), its status or \
'failed' and the reason, and its duration. Bodies are read to their end and not printed. A summary \
comes last, also after Ctrl-C. The exit status is 0 if every status was 2xx. The token is renewed \
before it expires. If a 401 says that the token is invalid, the request is made once more.

The flags under Upstream and Serving apply with --listen, and --startup-timeout with --token-file too. \
--admin applies with --listen, --token-file, --repeat and --every.

Each flag can also be set by CLIENT_ and its name: CLIENT_URL=https://proxy.example.org:8443/

Examples:
  client
  client spiffe://example.org/some-other-server
  client --url https://proxy.example.org:8443/ -i
  client -X PUT -H 'Content-Type: application/json' -d @order.json
  client --every 1s
  client --doctor
  client --print-token | client --explain-token -
  client --listen 127.0.0.1:15001 --url https://proxy.example.org:8443
  client --token-file /run/app/token --token-command 'systemctl reload app' \\
         spiffe://example.org/orders
  curl --cacert <(client --print-bundle) \\
       -H \"Authorization: Bearer $(client --print-token)\" URL"
)]
pub struct Config {
    /// Audience of the token [default: the server's SPIFFE ID]. If there are several, each can send the
    /// token to the others as this workload
    #[arg(value_name = "AUDIENCE", value_parser = cli::audience)]
    audience: Vec<String>,
    /// URL to request; https only. Redirects are shown and not followed
    #[arg(long, value_name = "URL", default_value = "https://localhost:8443/", value_parser = cli::https_url)]
    pub url: Uri,
    /// SPIFFE ID that the server must have
    #[arg(long, value_name = "ID", default_value = "spiffe://example.org/server", value_parser = cli::workload_id)]
    pub server_id: SpiffeId,
    /// Host name that the server's certificate must have, instead of --server-id: for a load balancer
    /// with a certificate of the web PKI. AUDIENCE is needed then
    #[arg(long, value_name = "NAME", value_parser = server_name, conflicts_with_all = ["server_id", "print_bundle"])]
    server_name: Option<ServerName<'static>>,
    /// File of the CA certificates (PEM) that verify --server-name [default: the system's]
    #[arg(long, value_name = "FILE", requires = "server_name")]
    ca: Option<PathBuf>,
    /// Request method [default: GET, or POST with -d]
    #[arg(short = 'X', long = "request", value_name = "METHOD", value_parser = request::method)]
    method: Option<Method>,
    /// Request header; repeatable
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = request::header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Request body, sent unchanged. @FILE reads it from a file, @- from standard input
    #[arg(short = 'd', long = "data", value_name = "DATA")]
    data: Option<String>,
    /// Print the response's status and header before its body
    #[arg(short = 'i', long, value_parser = boolean, conflicts_with = "doctor")]
    pub include: bool,
    /// Longest time for the whole run, or with --repeat or --every for the start and for each request
    #[arg(short = 'm', long, value_name = "DURATION", default_value = "30s", value_parser = cli::duration)]
    pub max_time: Duration,
    /// Make N requests, and print a line for each instead of the response's body
    #[arg(long, value_name = "N", value_parser = cli::positive, conflicts_with_all = ["include", "print", "doctor"])]
    repeat: Option<usize>,
    /// Time between two requests. Without --repeat, requests continue until Ctrl-C or SIGTERM
    /// [default with --repeat: 1s]
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = cli::duration,
        conflicts_with_all = ["include", "print", "doctor"]
    )]
    every: Option<Duration>,
    /// Print the token instead of making the request
    #[arg(
        long,
        value_parser = boolean,
        group = "print",
        conflicts_with_all = ["method", "headers", "data", "include", "doctor"]
    )]
    print_token: bool,
    /// Print the server's X.509 trust bundle (PEM) instead of making the request
    #[arg(
        long,
        value_parser = boolean,
        group = "print",
        conflicts_with_all = ["method", "headers", "data", "include", "audience", "doctor"]
    )]
    print_bundle: bool,
    /// The listener.
    #[command(flatten)]
    pub(crate) listening: ListenArgs,
    /// The file with a token.
    #[command(flatten)]
    pub(crate) token_file: TokenFileArgs,
    /// The diagnosis.
    #[command(flatten)]
    pub(crate) doctor: DoctorArgs,
    /// The explanation of a token.
    #[command(flatten)]
    pub(crate) explain: ExplainArgs,
    /// The Workload API.
    #[command(flatten)]
    pub identity: WorkloadApiArgs,
    /// The log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// The output instead of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Print {
    Token,
    Bundle,
}

/// The number of requests, and their interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// The number of requests. With `None`, they continue until a signal arrives.
    pub(crate) requests: Option<usize>,
    pub(crate) every: Duration,
}

impl Config {
    /// Returns the audiences of the token, each once.
    pub(crate) fn audiences(&self) -> Vec<String> {
        if self.audience.is_empty() {
            return vec![self.server_id.to_string()];
        }
        let mut audiences = Vec::new();
        for audience in &self.audience {
            if !audiences.contains(audience) {
                audiences.push(audience.clone());
            }
        }
        audiences
    }

    /// Returns the identity that the server must have.
    pub(crate) fn peer(&self) -> PeerIdentity {
        match &self.server_name {
            None => PeerIdentity::SpiffeId(self.server_id.clone()),
            Some(name) => PeerIdentity::Name {
                name: name.clone(),
                ca: self.ca.clone().map(|path| CaFile {
                    path,
                    setting: "--ca ",
                }),
            },
        }
    }

    /// Returns the URL without its query, because users put secrets there.
    pub(crate) fn url_without_query(&self) -> String {
        let mut url = self.url.to_string();
        url.truncate(url.find('?').unwrap_or(url.len()));
        url
    }

    /// Checks that there is an audience.
    ///
    /// # Errors
    /// Fails when it can't be the server's SPIFFE ID, because that is not known.
    pub(crate) fn check_audience(&self) -> Result<(), String> {
        match (&self.server_name, self.audience.is_empty()) {
            (Some(_), true) => Err(
                "--server-name needs AUDIENCE, the SPIFFE ID of the server: client spiffe://example.org/server --server-name …"
                    .into(),
            ),
            _ => Ok(()),
        }
    }

    /// Checks the admin listener, and the export of spans.
    ///
    /// # Errors
    /// Fails when its address may not be used, or when the client ends after one request.
    pub(crate) fn check_admin(&self) -> Result<(), String> {
        let admin = &self.listening.serve.admin;
        let lives = self.pace().is_some()
            || self.listening.listen.is_some()
            || self.token_file.token_file.is_some();
        match admin.address() {
            Some(address) if !lives => Err(format!(
                "--admin {address}: a client that makes one request has no admin listener; use it with --listen, --token-file, --repeat or --every"
            )),
            _ => {
                let listen = self.listening.listen.as_ref();
                let listen = listen.map(|address| address.of_flag("--listen"));
                self.listening.serve.check(listen, listen.is_some())
            }
        }
    }

    /// Returns the routes of applications' requests: those of `--route`, or one for every host.
    ///
    /// # Errors
    /// Fails when `--url` has a path, or when the audience is missing.
    pub(crate) fn routes(&self) -> Result<Vec<Route>, String> {
        if !self.listening.routes.is_empty() {
            return Ok(self.listening.routes.clone());
        }
        self.check_audience()?;
        let url = cli::without_path(&self.url, Protocol::Https).ok_or_else(|| {
            format!("--url {}: with --listen the applications give the path; expected for example https://localhost:8443", self.url)
        })?;
        Ok(vec![Route {
            host: None,
            url,
            audiences: self.audiences(),
            peer: self.peer(),
        }])
    }

    /// Warns of a token that its audiences could send to each other.
    pub(crate) fn warn(&self) {
        let count = self.audiences().len();
        if count > 1 {
            warn!(
                "the token is for {count} audiences: each of them can send it to the others as this workload, until it \
                 expires"
            );
        }
    }

    /// Returns the level of log lines: a client that runs until a signal logs as servers do.
    #[must_use]
    pub fn log_level(&self) -> LevelFilter {
        let level = match (&self.listening.listen, &self.token_file.token_file) {
            (None, None) => LevelFilter::WARN,
            _ => LevelFilter::INFO,
        };
        self.doctor.log_level(level)
    }

    /// Returns the output instead of a response, if there is one.
    pub(crate) fn print(&self) -> Option<Print> {
        match (self.print_token, self.print_bundle) {
            (true, _) => Some(Print::Token),
            (_, true) => Some(Print::Bundle),
            _ => None,
        }
    }

    /// Returns the pace of repeated requests, or `None` for a single request.
    pub(crate) fn pace(&self) -> Option<Pace> {
        let pace = Pace {
            requests: self.repeat,
            every: self.every.unwrap_or(Duration::from_secs(1)),
        };
        (self.repeat.is_some() || self.every.is_some()).then_some(pace)
    }

    /// Returns the server as an upstream.
    pub(crate) fn upstream(&self) -> Upstream {
        let urls = self.url.authority().into_iter().map(https).collect();
        let timeouts = Timeouts::all(self.max_time);
        Upstream::new(urls, timeouts, ExclusiveLimit::default())
    }
}

/// Returns the URL of a host with TLS.
fn https(host: &Authority) -> UpstreamUrl {
    UpstreamUrl::host(Protocol::Https, host.clone())
}

impl AsRef<LogArgs> for Config {
    fn as_ref(&self) -> &LogArgs {
        &self.log
    }
}

/// Parses the value that the environment gives to a flag without a value.
fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("expected true or false".into()),
    }
}

#[cfg(test)]
mod tests;
