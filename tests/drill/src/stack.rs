//! An agent, two servers, a proxy before both, and callers: real processes on ports of their own.

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

use crate::{caller::Caller, load::Load};

/// Not the server's, so that one of the two can lose its identity.
pub(crate) const PROXY_ID: &str = "spiffe://example.org/proxy";
/// A second identity of the callers.
pub(crate) const GUEST_ID: &str = "spiffe://example.org/guest";
/// A workload of another trust domain.
pub(crate) const STRANGER_ID: &str = "spiffe://partner.example/guest";
/// Requests in flight that the proxy takes: few, so that a drill can bring more.
const MAX_REQUESTS: &str = "200";
/// Nothing here takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// A server logs this for each request that it answers 200.
const SERVED: &str = "Request received";
/// How often a thing that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(2);

pub(crate) struct Stack {
    directory: TempDir,
    socket: PathBuf,
    pub(crate) agent: Node,
    pub(crate) servers: [Node; 2],
    pub(crate) proxy: Node,
    pub(crate) load: Load,
    pub(crate) api: WorkloadApi,
}

/// A process that can be started again as it was.
pub(crate) struct Node {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    endpoint: String,
    log: PathBuf,
    /// The socket that it is handed, if it is.
    listener: Option<TcpListener>,
    process: Process,
}

impl Stack {
    /// A proxy that is handed its listening socket.
    pub(crate) async fn handed_over() -> Result<Self> {
        Self::start(&[], true).await
    }

    /// A proxy that shares its port with its successor.
    pub(crate) async fn sharing_its_port() -> Result<Self> {
        Self::start(&[], false).await
    }

    /// An agent with these flags.
    pub(crate) async fn with_agent(args: &[&str]) -> Result<Self> {
        Self::start(args, false).await
    }

    /// How many requests a second the callers get through a stack that nothing happens to.
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
            load: Load::new(Arc::new(caller)),
            directory,
            socket,
            agent,
            servers,
            proxy,
            api,
        })
    }

    /// Moves a lever of the agent; what it says.
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

    /// Where this stack may write.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Those that have an identity of their own to lose.
    pub(crate) fn workloads(&self) -> [&Node; 3] {
        let [first, second] = &self.servers;
        [first, second, &self.proxy]
    }

    /// Everything ends by itself.
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

    /// Starts it again as it was; it listens when this returns. The one before is not waited for.
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

    /// Asks it to end, and waits until it has, well.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        stop(&self.name, &mut self.process).await
    }

    /// Ends it as the kernel would.
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

    /// Where it listens.
    pub(crate) fn port(&self) -> Result<u16> {
        let log = fs::read_to_string(&self.log)?;
        let line = log
            .lines()
            .rev()
            .find(|line| line.contains(process::LISTENING));
        Ok(process::port(line.context("it does not listen")?))
    }

    /// How much it has logged so far, in bytes.
    pub(crate) fn written(&self) -> usize {
        fs::metadata(&self.log).map_or(0, |log| log.len() as usize)
    }

    /// What it has logged since there were so many bytes, without its requests.
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

    /// Returns whether it has answered a request since it had logged so many bytes.
    pub(crate) fn has_served_since(&self, written: usize) -> Result<bool> {
        let mut log = File::open(&self.log)?;
        log.seek(SeekFrom::Start(written as u64))?;
        let mut text = Vec::new();
        log.read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).contains(SERVED))
    }

    /// Waits until it has logged `text`, after so many bytes.
    pub(crate) async fn logged(&self, text: &str, written: usize) -> Result<()> {
        let begun = Instant::now();
        while !self
            .log_since(written)?
            .iter()
            .any(|line| line.contains(text))
        {
            if begun.elapsed() > PATIENCE {
                let log = self.log_since(written)?.join("\n");
                bail!("{} did not log {text:?} in time, but:\n{log}", self.name);
            }
            sleep(LOOK * 5).await;
        }
        Ok(())
    }

    /// What it uses: resident memory in KiB, and open files.
    pub(crate) fn usage(&self) -> Result<(u64, usize)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|text| text.split_whitespace().next()?.parse().ok());
        Ok((resident.context("no VmRSS")?, self.open_files()?))
    }

    /// How many files it may have open: its soft limit.
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

/// Asks a process to end, and waits until it has, well.
pub(crate) async fn stop(name: &str, process: &mut Process) -> Result<()> {
    process.signal(Signal::SIGTERM);
    let status = process.ended().await;
    ensure!(status.success(), "{name} ended with {status}");
    Ok(())
}

/// Asks again until there is a value; how long that took.
pub(crate) async fn until<T>(mut wanted: impl AsyncFnMut() -> Option<T>) -> Result<(T, Duration)> {
    let begun = Instant::now();
    loop {
        if let Some(value) = wanted().await {
            return Ok((value, begun.elapsed()));
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "waited for {PATIENCE:?} in vain"
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
    // As systemd does it (sd_listen_fds(3)): the socket is file 3. The shell becomes the program.
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

/// Who is who, by the binaries.
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
