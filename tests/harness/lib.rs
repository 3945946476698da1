//! Starts a dev-agent and processes that use it, each on a free port, and stops them when the test
//! ends. Offers an HTTPS client, and upstreams that do what a test needs.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

pub mod admin;
pub mod app;
mod binaries;
pub mod chromium;
pub mod fake_workload_api;
pub mod frames;
pub mod fuzz;
pub mod http;
pub mod https;
pub mod installed;
pub mod jwt;
pub mod listen;
pub mod load;
pub mod manager;
pub mod metrics;
pub mod oracle;
pub mod process;
pub mod prometheus;
pub mod proxy_stack;
pub mod raw;
pub mod results;
pub mod scripted;
pub mod tool;
pub mod upstream;
pub mod users;
pub mod wait;
pub mod x509;

use std::{ffi::OsStr, io::Write, path::PathBuf, process::Output};

use common::workload::{Identity, WorkloadApi};
use dev_agent::{Config, DevAgent, Entry, FederatedBundle, JwtClaims};
use tempfile::TempDir;
use tokio::process::Command;

pub use self::{binaries::binary, wait::PATIENCE};
use self::{https::Https, process::Process};

/// The SPIFFE ID of the server and the proxy.
pub const SERVER_ID: &str = "spiffe://example.org/server";
/// The SPIFFE ID of the client.
pub const CLIENT_ID: &str = "spiffe://example.org/client";

/// Runs a dev-agent with entries for the binaries by path, and for the test's own process.
pub struct Stack {
    /// The agent, which issues identities. A test may give it any command.
    pub agent: DevAgent,
    _directory: TempDir,
}

impl Stack {
    /// Starts an agent for which the test's own process is `spiffe://example.org/server` too, so
    /// that it can act as an upstream.
    pub async fn new() -> Self {
        Self::with(SERVER_ID, |_| ()).await
    }

    /// Starts an agent for which the test's own process is `own_id`. `change` may change its
    /// configuration.
    pub async fn with(own_id: &str, change: impl FnOnce(&mut Config)) -> Self {
        let own = std::env::current_exe().unwrap();
        let entries = vec![
            entry(SERVER_ID, binary("server")),
            entry(SERVER_ID, binary("proxy")),
            entry(CLIENT_ID, binary("client")),
            entry(own_id, own),
        ];
        Self::with_entries(entries, change).await
    }

    /// Starts an agent with these registration entries only. `change` may change its configuration.
    pub async fn with_entries(entries: Vec<Entry>, change: impl FnOnce(&mut Config)) -> Self {
        process::install_crypto_provider();
        let directory = tempfile::tempdir().unwrap();
        let mut config = Config::new(directory.path().join("agent.sock"), entries);
        change(&mut config);
        Self {
            agent: DevAgent::start(config).await.unwrap(),
            _directory: directory,
        }
    }

    /// Does the same as [`Self::new`] with an agent that federates with the trust domain of `bundle`.
    pub async fn federated(bundle: FederatedBundle) -> Self {
        Self::with(SERVER_ID, |config| config.federated = vec![bundle]).await
    }

    /// Starts a server on a free port and waits until it listens.
    pub async fn server(&self, args: &[&str]) -> Process {
        self.listening("server", args).await
    }

    /// Starts a server on the `port` of a server that was stopped.
    pub async fn server_again(&self, port: u16) -> Process {
        self.listening_on(port, "server", &[]).await
    }

    /// Starts a proxy on a free port in front of `upstream` and waits until it listens.
    pub async fn proxy(&self, upstream: u16, args: &[&str]) -> Process {
        let upstream = format!("https://localhost:{upstream}");
        self.listening("proxy", &[&["--upstream", &upstream], args].concat())
            .await
    }

    /// Starts a proxy on a free port in front of several upstreams and waits until it listens.
    pub async fn proxy_before(&self, upstreams: &[u16], args: &[&str]) -> Process {
        let urls: Vec<_> = upstreams
            .iter()
            .map(|port| format!("https://127.0.0.1:{port}"))
            .collect();
        let flags: Vec<_> = urls.iter().flat_map(|url| ["--upstream", url]).collect();
        self.listening("proxy", &[&flags, args].concat()).await
    }

    /// Starts a binary on a port that nobody else gets after its end, and waits until it listens.
    async fn listening(&self, name: &str, args: &[&str]) -> Process {
        let [port] = process::free_ports();
        self.listening_on(port, name, args).await
    }

    async fn listening_on(&self, port: u16, name: &str, args: &[&str]) -> Process {
        let address = format!("127.0.0.1:{port}");
        let process = self.spawn(name, &[&["--listen", &address], args].concat());
        process.listening().await;
        process
    }

    /// Runs the client against `port` to its end.
    pub async fn client(&self, port: u16, args: &[&str]) -> Output {
        let url = format!("https://localhost:{port}/");
        process::output(
            "client",
            &self.agent.endpoint(),
            &[&["--url", &url], args].concat(),
        )
        .await
    }

    /// Starts a binary that uses this agent.
    pub fn spawn(&self, name: &str, args: &[&str]) -> Process {
        process::spawn(name, &self.agent.endpoint(), args)
    }

    /// Does the same as [`Self::spawn`] with more variables.
    pub fn spawn_with(
        &self,
        name: &str,
        args: &[impl AsRef<OsStr>],
        environment: &[(&str, impl AsRef<OsStr>)],
    ) -> Process {
        let mut command = self.command(name, args);
        for (variable, value) in environment {
            command.env(variable, value);
        }
        Process::spawn(command)
    }

    /// Returns the command that starts a binary that uses this agent.
    pub fn command(&self, name: &str, args: &[impl AsRef<OsStr>]) -> Command {
        process::command(&binary(name), &self.agent.endpoint(), args)
    }

    /// Returns the identity of the test's own process.
    pub async fn identity(&self) -> Identity {
        let workload_api = WorkloadApi::new(self.agent.endpoint().parse().unwrap(), PATIENCE);
        workload_api.identity().await.unwrap()
    }

    /// Returns an HTTPS client that trusts this agent's CAs and sends to the name `localhost`.
    pub fn https(&self, port: u16) -> Https {
        Https::new(port, &self.agent.x509_bundle_pem())
    }

    /// Returns a token that the agent would issue to the client for the server, changed by
    /// `change`.
    pub fn token(&self, change: impl FnOnce(&mut JwtClaims)) -> String {
        let mut claims = self.agent.jwt_claims(CLIENT_ID, &[SERVER_ID]);
        change(&mut claims);
        self.agent.mint_jwt(&claims)
    }

    /// Returns the value of an `Authorization` field with a token that the server accepts.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.token(|_| ()))
    }
}

/// Prints why a test does nothing. `scripts/test.sh` looks for these lines, and the test runner
/// captures `eprintln!`.
pub fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

fn entry(id: &str, executable: PathBuf) -> Entry {
    format!(
        "{id}=unix:path:{};dns=localhost",
        executable.canonicalize().unwrap().display()
    )
    .parse()
    .unwrap()
}
