//! Starts an agent, two servers, a proxy in front of both, and callers. The processes listen on
//! free ports.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, ensure};
use common::workload::WorkloadApi;
use harness::{CLIENT_ID, SERVER_ID, binary, process};
use tempfile::TempDir;
use tokio::{process::Command, time::sleep};

use crate::{
    application,
    caller::Caller,
    load::Traffic,
    node::{Node, PATIENCE},
};

/// The proxy's own identity, so that the servers can lose theirs.
pub(crate) const PROXY_ID: &str = "spiffe://example.org/proxy";
/// A second identity of the callers.
pub(crate) const GUEST_ID: &str = "spiffe://example.org/guest";
/// A workload of another trust domain.
pub(crate) const STRANGER_ID: &str = "spiffe://partner.example/guest";
/// The flags by which the agent serves its bundle to another trust domain.
const BUNDLE_ENDPOINT: [&str; 4] = [
    "--bundle-endpoint",
    "127.0.0.1:0",
    "--bundle-refresh-hint",
    "1s",
];
/// The limits of the proxy. That of requests in flight is low, so that a drill can exceed it. That of handshakes is
/// above the number of callers, who would be reset if all shake hands at once.
const LIMITS: [&str; 4] = ["--max-requests", "200", "--max-handshakes", "2000"];

pub(crate) struct Stack {
    directory: TempDir,
    socket: PathBuf,
    pub(crate) agent: Node,
    pub(crate) servers: [Node; 2],
    pub(crate) proxy: Node,
    pub(crate) load: Traffic,
    pub(crate) api: WorkloadApi,
}

impl Stack {
    /// Starts a stack whose proxy gets its listening socket handed over. Its servers stand in front of an
    /// application.
    pub(crate) async fn handed_over() -> Result<Self> {
        Self::start(&[], true, Some(application::start().await)).await
    }

    /// Starts a stack whose proxy shares its port with its successor.
    pub(crate) async fn sharing_its_port() -> Result<Self> {
        Self::start(&[], false, None).await
    }

    /// Starts a stack whose agent has these flags.
    pub(crate) async fn with_agent(args: &[&str]) -> Result<Self> {
        Self::start(args, false, None).await
    }

    /// Returns how many requests a second the callers get through a stack without events.
    pub(crate) async fn full_speed() -> Result<f64> {
        const WARM_UP: Duration = Duration::from_secs(1);
        const MEASURED: Duration = Duration::from_secs(2);
        let stack = Self::handed_over().await?;
        stack.load.go(None);
        sleep(WARM_UP).await;
        stack.load.take();
        sleep(MEASURED).await;
        let requests = stack.load.take().requests();
        stack.end().await?;
        Ok(requests as f64 / MEASURED.as_secs_f64())
    }

    /// Starts a stack. `app` is the port of the application, if the servers do not answer themselves.
    async fn start(agent_args: &[&str], hand_over: bool, app: Option<u16>) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("agent.sock");
        let endpoint = format!("unix://{}", socket.display());
        let node =
            |name, args, listener| Node::start(directory.path(), &endpoint, name, args, listener);

        let mut args = entries()?;
        args.extend(["--socket".to_owned(), socket.display().to_string()]);
        args.extend(BUNDLE_ENDPOINT.map(str::to_owned));
        args.extend(agent_args.iter().map(ToString::to_string));
        let agent = node("dev-agent", args, None).await?;
        let [port, one, two] = process::free_ports();
        let server = |port| node("server", server_args(port, app), None);
        let servers = [server(one).await?, server(two).await?];
        let mut args = proxy_args([one, two]);
        let listener = if hand_over {
            Some(TcpListener::bind((Ipv4Addr::LOCALHOST, port))?)
        } else {
            let listen = ["--listen", &format!("127.0.0.1:{port}"), "--reuse-port"];
            args.extend(listen.map(str::to_owned));
            None
        };
        let proxy = node("proxy", args, listener).await?;
        let api = WorkloadApi::new(endpoint.parse()?, PATIENCE);
        let caller = Caller::new(port, &api, CLIENT_ID, SERVER_ID).await?;
        Ok(Self {
            load: Traffic::new(Arc::new(caller)),
            directory,
            socket,
            agent,
            servers,
            proxy,
            api,
        })
    }

    /// Gives the agent a command and returns its output.
    pub(crate) async fn ctl(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(binary("dev-agent"));
        command
            .args(["ctl", "--socket"])
            .arg(&self.socket)
            .args(args);
        let output = command.kill_on_drop(true).output().await?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "dev-agent ctl {}: {}",
            args.join(" "),
            error.trim()
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Returns the status of the agent.
    pub(crate) async fn status(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(
            &self.ctl(&["status", "--json"]).await?,
        )?)
    }

    /// Starts another process, which gets its identity from the agent at `endpoint`.
    pub(crate) async fn start_node(
        &self,
        endpoint: &str,
        name: &str,
        args: &[&str],
    ) -> Result<Node> {
        let args = args.iter().map(ToString::to_string).collect();
        Node::start(self.directory(), endpoint, name, args, None).await
    }

    /// Returns the address of the agent.
    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Returns the directory that this stack may write to.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Returns the processes that get an identity from the agent.
    pub(crate) fn workloads(&self) -> [&Node; 3] {
        let [first, second] = &self.servers;
        [first, second, &self.proxy]
    }

    /// Stops all processes by SIGTERM.
    pub(crate) async fn end(mut self) -> Result<()> {
        self.load.rest();
        let [first, second] = &mut self.servers;
        for node in [&mut self.proxy, first, second, &mut self.agent] {
            node.stop().await?;
        }
        Ok(())
    }
}

/// Returns the flags of a server on `port`, which answers itself or stands in front of `app`.
fn server_args(port: u16, app: Option<u16>) -> Vec<String> {
    let listen = format!("127.0.0.1:{port}");
    let allowed = ["--allow", "spiffe://example.org/*", "--allow", STRANGER_ID];
    let mut args = [&["--listen", listen.as_str()], &allowed[..]].concat();
    let upstream = app.map(|app| format!("http://127.0.0.1:{app}"));
    if let Some(upstream) = &upstream {
        args.extend(["--upstream", upstream]);
    }
    args.into_iter().map(str::to_owned).collect()
}

/// Returns the flags of a proxy in front of servers on these ports, except where it listens.
fn proxy_args(servers: [u16; 2]) -> Vec<String> {
    let upstream = |port| ["--upstream".to_owned(), format!("https://localhost:{port}")];
    let mut args = LIMITS.map(str::to_owned).to_vec();
    args.extend(servers.into_iter().flat_map(upstream));
    args
}

/// Returns the entries that give each binary its identity.
fn entries() -> Result<Vec<String>> {
    let own = std::env::current_exe()?.canonicalize()?;
    let entries = [
        (SERVER_ID, binary("server")),
        (PROXY_ID, binary("proxy")),
        (CLIENT_ID, own.clone()),
        (GUEST_ID, own),
    ];
    let entry = |(id, path): (&str, PathBuf)| {
        let entry = format!("{id}=unix:path:{};dns=localhost", path.display());
        ["--entry".to_owned(), entry]
    };
    Ok(entries.map(entry).concat())
}
