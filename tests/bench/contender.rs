//! The stacks that meet the same load: how each is started, and what it used.

use std::{
    ffi::OsString,
    fs::File,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use harness::{
    SERVER_ID, Stack, binary,
    process::{self, Process},
};
use nix::{sys::signal::Signal, unistd::Uid};
use tempfile::TempDir;
use tokio::{net::TcpStream, time::sleep};

use crate::envoy;

/// How long a stack may take to accept its first connection.
const START: Duration = Duration::from_secs(20);
/// How often it is tried: the resolution of the times to start.
const RETRY: Duration = Duration::from_millis(1);
/// How long tokens live: longer than any run.
const TOKEN_TTL: Duration = Duration::from_secs(3600);

/// A server and a proxy before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Contender {
    /// This project, as it is released.
    Project,
    /// hyper and rustls as usual, without identity: floor.rs.
    Floor,
    /// Envoy with jwt_authn and its token cache.
    Envoy,
    /// The same without its cache.
    EnvoyUncached,
    /// go-spiffe: the program in tests/interop, which has the shape of go-spiffe's own example.
    GoSpiffe,
}

impl Contender {
    /// All, in the order of the tables.
    pub(crate) const ALL: [Self; 5] = [
        Self::Project,
        Self::Floor,
        Self::Envoy,
        Self::EnvoyUncached,
        Self::GoSpiffe,
    ];

    /// Its name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Project => "this project",
            Self::Floor => "floor",
            Self::Envoy => "Envoy",
            Self::EnvoyUncached => "Envoy, no cache",
            Self::GoSpiffe => "go-spiffe",
        }
    }

    /// Its name for machines and flags.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Floor => "floor",
            Self::Envoy => "envoy",
            Self::EnvoyUncached => "envoy-uncached",
            Self::GoSpiffe => "go-spiffe",
        }
    }
}

/// Where contenders run: an agent that takes any process of this user for the server, their logs.
pub(crate) struct World {
    /// The agent, and what it issues.
    pub(crate) stack: Stack,
    directory: TempDir,
    envoy: Option<PathBuf>,
    go: Option<PathBuf>,
}

/// A contender that accepts connections. Killed when dropped.
pub(crate) struct Running {
    /// Its processes, the proxy last.
    processes: Vec<Process>,
    /// Where its proxy listens.
    pub(crate) port: u16,
    /// From exec to accepting, for each process.
    pub(crate) start: Vec<Duration>,
}

impl World {
    /// Starts the agent. `ENVOY` may name the Envoy binary, `GO_SPIFFE` the built tests/interop.
    pub(crate) async fn new() -> Result<Self> {
        let any = format!("{SERVER_ID}=unix:uid:{};dns=localhost", Uid::current());
        let entry = any.parse()?;
        let stack = Stack::with(SERVER_ID, |config| {
            config.entries = vec![entry];
            config.jwt_ttl = TOKEN_TTL;
        })
        .await;
        let directory = tempfile::tempdir()?;
        let from = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let envoy = from("ENVOY").map(PathBuf::from);
        if envoy.is_some() {
            envoy::write_identity(&stack, directory.path()).await?;
        }
        Ok(Self {
            stack,
            directory,
            envoy,
            go: from("GO_SPIFFE").map(PathBuf::from),
        })
    }

    /// Whether everything that this contender needs is there.
    pub(crate) fn has(&self, contender: Contender) -> bool {
        match contender {
            Contender::Project | Contender::Floor => true,
            Contender::Envoy | Contender::EnvoyUncached => self.envoy.is_some(),
            Contender::GoSpiffe => self.go.is_some(),
        }
    }

    /// What the agent would issue to the client.
    pub(crate) fn token(&self) -> String {
        self.stack.token(|_| ())
    }

    /// Starts both processes of a contender; they accept connections when this returns.
    pub(crate) async fn start(&self, contender: Contender) -> Result<Running> {
        let [server, proxy] = [free_port()?, free_port()?];
        let mut running = Running::new(proxy);
        if let Contender::Envoy | Contender::EnvoyUncached = contender {
            let cached = contender == Contender::Envoy;
            let config = envoy::write_config(self.directory.path(), server, proxy, cached)?;
            let args = ["-c".into(), config.into(), "-l".into(), "error".into()];
            let path = self.envoy.clone().context("there is no Envoy")?;
            running
                .add(self.command("envoy", path, &args)?, proxy)
                .await?;
            return Ok(running);
        }
        running
            .add(self.role(contender, "server", server, None)?, server)
            .await?;
        running
            .add(self.role(contender, "proxy", proxy, Some(server))?, proxy)
            .await?;
        Ok(running)
    }

    /// Only the proxy of a contender, before an `upstream` that is already there.
    pub(crate) async fn start_proxy(&self, contender: Contender, upstream: u16) -> Result<Running> {
        let port = free_port()?;
        let mut running = Running::new(port);
        running
            .add(self.role(contender, "proxy", port, Some(upstream))?, port)
            .await?;
        Ok(running)
    }

    /// Starts the project on one core under callgrind; also where that writes what it counted of
    /// the server and of the proxy once [`Running::end`] is done.
    pub(crate) async fn start_counted(&self, valgrind: &Path) -> Result<(Running, [PathBuf; 2])> {
        let [server, proxy] = [free_port()?, free_port()?];
        let counts = ["server", "proxy"].map(|role| self.directory.path().join(role));
        let mut running = Running::new(proxy);
        for ((role, port, upstream), counted) in
            [("server", server, None), ("proxy", proxy, Some(server))]
                .into_iter()
                .zip(&counts)
        {
            let mut args: Vec<OsString> = vec!["--tool=callgrind".into()];
            let mut file = OsString::from("--callgrind-out-file=");
            file.push(counted);
            args.extend([file, binary(role).into(), "--cores".into(), "1".into()]);
            args.extend(project_args(port, upstream).into_iter().map(OsString::from));
            let name = format!("counted-{role}");
            running
                .add(self.command(&name, valgrind.to_owned(), &args)?, port)
                .await?;
        }
        Ok((running, counts))
    }

    fn role(
        &self,
        contender: Contender,
        role: &str,
        port: u16,
        upstream: Option<u16>,
    ) -> Result<tokio::process::Command> {
        let (path, args) = match contender {
            Contender::Project => (binary(role), project_args(port, upstream)),
            Contender::Floor => {
                let ports = [Some(port), upstream].into_iter().flatten();
                let ports = ports.map(|port| port.to_string());
                let args = [role.to_owned()].into_iter().chain(ports).collect();
                (binary("examples/floor"), args)
            }
            Contender::GoSpiffe => (
                self.go.clone().context("there is no go-spiffe")?,
                go_args(role, port, upstream),
            ),
            Contender::Envoy | Contender::EnvoyUncached => bail!("Envoy has no {role} of its own"),
        };
        let args: Vec<_> = args.into_iter().map(OsString::from).collect();
        self.command(&format!("{}-{role}", contender.key()), path, &args)
    }

    fn command(
        &self,
        name: &str,
        path: PathBuf,
        args: &[OsString],
    ) -> Result<tokio::process::Command> {
        let mut command = process::command(&path, &self.stack.agent.endpoint(), args);
        let log = File::create(self.directory.path().join(format!("{name}.log")))?;
        command.stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }
}

impl Running {
    fn new(port: u16) -> Self {
        Self {
            processes: Vec::new(),
            port,
            start: Vec::new(),
        }
    }

    async fn add(&mut self, command: tokio::process::Command, port: u16) -> Result<()> {
        let begin = Instant::now();
        self.processes.push(Process::spawn_unread(command));
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .is_err()
        {
            if begin.elapsed() > START {
                bail!("a process did not listen on port {port} within {START:?}");
            }
            sleep(RETRY).await;
        }
        self.start.push(begin.elapsed());
        Ok(())
    }

    /// User and system time of all its processes so far.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.processes.iter().map(Process::cpu_time).sum()
    }

    /// The most memory that its processes ever had, in MiB, added up.
    pub(crate) fn peak_mib(&self) -> f64 {
        let kib: usize = self.processes.iter().map(Process::peak_memory).sum();
        kib as f64 / 1024.0
    }

    /// Lets its processes end by themselves, the proxy first.
    pub(crate) async fn end(mut self) -> Result<()> {
        for process in self.processes.iter_mut().rev() {
            process.signal(Signal::SIGTERM);
            let status = process.ended().await;
            ensure!(status.success(), "a process ended with {status}");
        }
        Ok(())
    }

    /// Kills its processes.
    pub(crate) async fn stop(mut self) {
        for process in self.processes.iter_mut().rev() {
            process.signal(Signal::SIGKILL);
            process.ended().await;
        }
    }
}

fn project_args(port: u16, upstream: Option<u16>) -> Vec<String> {
    let listen = ["--listen".to_owned(), format!("127.0.0.1:{port}")];
    let upstream = upstream.map(|port| ["--upstream".into(), format!("https://localhost:{port}")]);
    listen
        .into_iter()
        .chain(upstream.into_iter().flatten())
        .collect()
}

fn go_args(role: &str, port: u16, upstream: Option<u16>) -> Vec<String> {
    let own = [
        role.to_owned(),
        "-listen".into(),
        format!("127.0.0.1:{port}"),
    ];
    let upstream = upstream.map(|port| ["-upstream".into(), format!("https://localhost:{port}")]);
    own.into_iter()
        .chain(upstream.into_iter().flatten())
        .collect()
}

/// A port that nobody had a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    let probe = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(probe.local_addr()?.port())
}
