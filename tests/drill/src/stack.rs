//! Starts an agent, two servers, a proxy in front of both, and callers. The processes listen on
//! free ports.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    net::TcpListener,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use common::workload::WorkloadApi;
use harness::{CLIENT_ID, SERVER_ID, binary, process, process::Process};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::{process::Command, time::sleep};

use crate::{caller::Caller, load::Traffic};

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
/// The in-flight limit of the proxy. It is low, so that a drill can exceed it.
const MAX_REQUESTS: &str = "200";
/// Every wait takes less time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// A server logs this for each request that it answers 200.
const SERVED: &str = "Request received";
/// The interval between two checks of a condition.
const LOOK: Duration = Duration::from_millis(2);

pub(crate) struct Stack {
    directory: TempDir,
    socket: PathBuf,
    pub(crate) agent: Node,
    pub(crate) servers: [Node; 2],
    pub(crate) proxy: Node,
    pub(crate) load: Traffic,
    pub(crate) api: WorkloadApi,
}

/// Holds a process that can be started again with the same arguments.
pub(crate) struct Node {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    endpoint: String,
    log: PathBuf,
    /// The socket that is handed over to the process, if any.
    listener: Option<TcpListener>,
    process: Process,
}

impl Stack {
    /// Starts a stack whose proxy gets its listening socket handed over.
    pub(crate) async fn handed_over() -> Result<Self> {
        Self::start(&[], true).await
    }

    /// Starts a stack whose proxy shares its port with its successor.
    pub(crate) async fn sharing_its_port() -> Result<Self> {
        Self::start(&[], false).await
    }

    /// Starts a stack whose agent has these flags.
    pub(crate) async fn with_agent(args: &[&str]) -> Result<Self> {
        Self::start(args, false).await
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

    async fn start(agent_args: &[&str], hand_over: bool) -> Result<Self> {
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
        let ports = process::free_ports::<2>();
        let server = |port| {
            let allowed = ["spiffe://example.org/*", STRANGER_ID];
            let listen = format!("127.0.0.1:{port}");
            let args = [
                "--listen", &listen, "--allow", allowed[0], "--allow", allowed[1],
            ];
            node("server", args.map(str::to_owned).to_vec(), None)
        };
        let servers = [server(ports[0]).await?, server(ports[1]).await?];
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let mut args = vec!["--max-requests".to_owned(), MAX_REQUESTS.to_owned()];
        for port in ports {
            args.extend(["--upstream".to_owned(), format!("https://localhost:{port}")]);
        }
        let listener = if hand_over {
            Some(listener)
        } else {
            drop(listener);
            args.extend([
                "--listen".to_owned(),
                format!("127.0.0.1:{port}"),
                "--reuse-port".to_owned(),
            ]);
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

impl Node {
    async fn start(
        directory: &Path,
        endpoint: &str,
        name: &str,
        args: Vec<String>,
        listener: Option<TcpListener>,
    ) -> Result<Self> {
        let count = fs::read_dir(directory)?.count();
        let log = directory.join(format!("{count}-{name}.log"));
        let program = binary(name);
        let process = spawn(&program, &args, endpoint, &log, listener.as_ref())?;
        let node = Self {
            name: name.to_owned(),
            program,
            args,
            endpoint: endpoint.to_owned(),
            log,
            listener,
            process,
        };
        node.logged("listening on", 0).await?;
        Ok(node)
    }

    /// Starts the process again and waits until it listens. Returns the process before, which may
    /// still run.
    pub(crate) async fn start_again(&mut self) -> Result<Process> {
        let written = self.written();
        let listener = self.listener.as_ref();
        let next = spawn(
            &self.program,
            &self.args,
            &self.endpoint,
            &self.log,
            listener,
        )?;
        let last = std::mem::replace(&mut self.process, next);
        self.logged("listening on", written).await?;
        Ok(last)
    }

    /// Stops the process by SIGTERM, and fails unless it exits with status 0.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        stop(&self.name, &mut self.process).await
    }

    /// Kills the process.
    pub(crate) async fn kill(&mut self) {
        self.process.signal(Signal::SIGKILL);
        self.process.ended().await;
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the port that it listens on.
    pub(crate) fn port(&self) -> Result<u16> {
        let log = fs::read_to_string(&self.log)?;
        let line = log
            .lines()
            .rev()
            .find(|line| line.contains(process::LISTENING));
        Ok(process::port(line.context("it does not listen")?))
    }

    /// Returns the size of its log in bytes.
    pub(crate) fn written(&self) -> usize {
        fs::metadata(&self.log).map_or(0, |log| log.len() as usize)
    }

    /// Returns its log lines after the first `written` bytes, except those of requests.
    pub(crate) fn log_since(&self, written: usize) -> Result<Vec<String>> {
        let log = fs::read(&self.log)?;
        let log = String::from_utf8_lossy(log.get(written..).unwrap_or_default()).into_owned();
        let is_request = |line: &&str| line.contains(SERVED) || line.contains(" GET / ");
        Ok(log
            .lines()
            .filter(|line| !is_request(line))
            .map(str::to_owned)
            .collect())
    }

    /// Returns whether it has answered a request after the first `written` bytes of its log.
    pub(crate) fn has_served_since(&self, written: usize) -> Result<bool> {
        let mut log = File::open(&self.log)?;
        log.seek(SeekFrom::Start(written as u64))?;
        let mut text = Vec::new();
        log.read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).contains(SERVED))
    }

    /// Waits until it has logged `text` after the first `written` bytes of its log.
    pub(crate) async fn logged(&self, text: &str, written: usize) -> Result<()> {
        let begun = Instant::now();
        while !self
            .log_since(written)?
            .iter()
            .any(|line| line.contains(text))
        {
            if begun.elapsed() > PATIENCE {
                let log = self.log_since(written)?.join("\n");
                bail!("{} did not log {text:?} in time:\n{log}", self.name);
            }
            sleep(LOOK * 5).await;
        }
        Ok(())
    }

    /// Returns its resident memory in KiB and its number of open files.
    pub(crate) fn usage(&self) -> Result<(u64, usize)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|text| text.split_whitespace().next()?.parse().ok());
        Ok((resident.context("no VmRSS")?, self.open_files()?))
    }

    /// Returns its soft limit of open files.
    pub(crate) fn max_open_files(&self) -> Result<u64> {
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.pid()))?;
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"));
        let soft = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        soft.context("no limit of open files")
    }

    pub(crate) fn open_files(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }
}

/// Stops a process by SIGTERM, and fails unless it exits with status 0.
pub(crate) async fn stop(name: &str, process: &mut Process) -> Result<()> {
    process.signal(Signal::SIGTERM);
    let status = process.ended().await;
    ensure!(status.success(), "{name} ended with {status}");
    Ok(())
}

/// Waits until `wanted` returns a value. Returns the value and the time that it took.
pub(crate) async fn until<T>(mut wanted: impl AsyncFnMut() -> Option<T>) -> Result<(T, Duration)> {
    let begun = Instant::now();
    loop {
        if let Some(value) = wanted().await {
            return Ok((value, begun.elapsed()));
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "nothing happened within {PATIENCE:?}"
        );
        sleep(LOOK).await;
    }
}

fn spawn(
    program: &Path,
    args: &[String],
    endpoint: &str,
    log: &Path,
    listener: Option<&TcpListener>,
) -> Result<Process> {
    // The socket is file 3, as with systemd (sd_listen_fds(3)). The shell becomes the program.
    const HAND_OVER: &str =
        r#"exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$0" "$@""#;
    let mut command = match listener {
        None => process::command(program, endpoint, args),
        Some(_) => {
            let shell = [
                "-c".to_owned(),
                HAND_OVER.to_owned(),
                program.display().to_string(),
            ];
            process::command(Path::new("/bin/sh"), endpoint, &[&shell, args].concat())
        }
    };
    if let Some(listener) = listener {
        command.stdin(Stdio::from(OwnedFd::from(listener.try_clone()?)));
    }
    let log = File::options().create(true).append(true).open(log)?;
    command.stdout(Stdio::null()).stderr(log);
    Ok(Process::spawn_unread(command))
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
