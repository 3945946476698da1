//! What the tests share: one dev-agent and the processes on it, on ports of their own, gone when the
//! test ends; an HTTPS client and upstreams that do what a test needs.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

mod binaries;
pub mod fake_workload_api;
pub mod frames;
pub mod fuzz;
pub mod https;
pub mod jwt;
pub mod listen;
pub mod load;
pub mod process;
pub mod proxy_stack;
pub mod raw;
pub mod results;
pub mod scripted;
pub mod tool;
pub mod upstream;
pub mod users;
pub mod wait;
pub mod x509;

use std::{io::Write, path::PathBuf, process::Output, time::Duration};

use common::workload::{Identity, WorkloadApi};
use dev_agent::{Config, DevAgent, Entry, JwtClaims};
use tempfile::TempDir;

pub use self::binaries::binary;
use self::{https::Https, process::Process};

/// Server and proxy.
pub const SERVER_ID: &str = "spiffe://example.org/server";
/// The client.
pub const CLIENT_ID: &str = "spiffe://example.org/client";

/// Longer than anything here takes; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A dev-agent with entries for our binaries by path, and for the test's own process.
pub struct Stack {
    /// What issues identities; its levers are the test's to move.
    pub agent: DevAgent,
    _directory: TempDir,
}

impl Stack {
    /// The test's own process is `spiffe://example.org/server` too, to stand in as an upstream.
    pub async fn new() -> Self {
        Self::with(SERVER_ID, |_| ()).await
    }

    /// The test's own process is `own_id`; `change` may change the agent's configuration.
    pub async fn with(own_id: &str, change: impl FnOnce(&mut Config)) -> Self {
        process::install_crypto_provider();
        let directory = tempfile::tempdir().unwrap();
        let own = std::env::current_exe().unwrap();
        let entries = vec![
            entry(SERVER_ID, binary("server")),
            entry(SERVER_ID, binary("proxy")),
            entry(CLIENT_ID, binary("client")),
            entry(own_id, own),
        ];
        let mut config = Config::new(directory.path().join("agent.sock"), entries);
        change(&mut config);
        Self {
            agent: DevAgent::start(config).await.unwrap(),
            _directory: directory,
        }
    }

    /// A server on a free port, listening.
    pub async fn server(&self, args: &[&str]) -> Process {
        let server = self.spawn("server", &[&["--listen", "127.0.0.1:0"], args].concat());
        server.listening().await;
        server
    }

    /// Starts a server on `port`, which a server had before that was stopped.
    pub async fn server_again(&self, port: u16) -> Process {
        let server = self.spawn("server", &["--listen", &format!("127.0.0.1:{port}")]);
        server.listening().await;
        server
    }

    /// A proxy on a free port before `upstream`, listening.
    pub async fn proxy(&self, upstream: u16, args: &[&str]) -> Process {
        let upstream = format!("https://localhost:{upstream}");
        let proxy = self.spawn(
            "proxy",
            &[&["--listen", "127.0.0.1:0", "--upstream", &upstream], args].concat(),
        );
        proxy.listening().await;
        proxy
    }

    /// Starts a proxy on a free port in front of several upstreams.
    pub async fn proxy_before(&self, upstreams: &[u16], args: &[&str]) -> Process {
        let urls: Vec<_> = upstreams
            .iter()
            .map(|port| format!("https://127.0.0.1:{port}"))
            .collect();
        let mut all = vec!["--listen", "127.0.0.1:0"];
        for url in &urls {
            all.extend(["--upstream", url]);
        }
        let proxy = self.spawn("proxy", &[&all, args].concat());
        proxy.listening().await;
        proxy
    }

    /// A client's whole run against `port`.
    pub async fn client(&self, port: u16, args: &[&str]) -> Output {
        let url = format!("https://localhost:{port}/");
        process::output(
            "client",
            &self.agent.endpoint(),
            &[&["--url", &url], args].concat(),
        )
        .await
    }

    /// One of our binaries on this agent.
    pub fn spawn(&self, name: &str, args: &[&str]) -> Process {
        Process::spawn(process::command(
            &binary(name),
            &self.agent.endpoint(),
            args,
        ))
    }

    /// Identity for the test's own process.
    pub async fn identity(&self) -> Identity {
        let workload_api = WorkloadApi::new(self.agent.endpoint().parse().unwrap(), PATIENCE);
        workload_api.identity().await.unwrap()
    }

    /// An HTTPS client that trusts this agent's CAs and goes by the name `localhost`.
    pub fn https(&self, port: u16) -> Https {
        Https::new(port, &self.agent.x509_bundle_pem())
    }

    /// A token that the agent would issue to the client for the server, changed by `change`.
    pub fn token(&self, change: impl FnOnce(&mut JwtClaims)) -> String {
        let mut claims = self.agent.jwt_claims(CLIENT_ID, &[SERVER_ID]);
        change(&mut claims);
        self.agent.mint_jwt(&claims)
    }
}

/// Says why a test does nothing. Not by `eprintln!`, which the test runner keeps to itself;
/// `scripts/test.sh` looks for these lines.
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
