//! Starts each of the stacks that the bench compares.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use harness::{SERVER_ID, Stack, binary, process};
use nix::unistd::Uid;
use tempfile::TempDir;

use crate::{
    envoy::{self, Features},
    running::Running,
};

/// The life of a token, which is longer than any run.
const TOKEN_TTL: Duration = Duration::from_secs(3600);

/// A stack, which is a server and a proxy in front of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Contender {
    /// This project, as scripts/release.sh builds it.
    Project,
    /// This project, as `cargo build --release` builds it.
    Plain,
    /// This project, as scripts/container.sh builds it: statically, with musl.
    Static,
    /// hyper and rustls as they are usually used, without identity: floor.rs.
    Floor,
    /// Envoy with jwt_authn and its token cache.
    Envoy,
    /// Envoy with jwt_authn, without its token cache.
    EnvoyUncached,
    /// go-spiffe: the program in tests/interop/go-spiffe, which has the shape of go-spiffe's own example.
    GoSpiffe,
}

impl Contender {
    /// All stacks, in the order of the tables.
    pub(crate) const ALL: [Self; 7] = [
        Self::Project,
        Self::Plain,
        Self::Static,
        Self::Floor,
        Self::Envoy,
        Self::EnvoyUncached,
        Self::GoSpiffe,
    ];

    /// Returns the name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Project => "this project",
            Self::Plain => "without PGO",
            Self::Static => "static (musl)",
            Self::Floor => "floor",
            Self::Envoy => "Envoy",
            Self::EnvoyUncached => "Envoy, no cache",
            Self::GoSpiffe => "go-spiffe",
        }
    }

    /// Returns the name for machines and flags.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Plain => "plain",
            Self::Static => "static",
            Self::Floor => "floor",
            Self::Envoy => "envoy",
            Self::EnvoyUncached => "envoy-uncached",
            Self::GoSpiffe => "go-spiffe",
        }
    }
}

/// Holds the agent and the logs of the stacks. The agent gives any process of this user the
/// server's identity.
pub(crate) struct World {
    /// The agent, which issues the identities.
    pub(crate) stack: Stack,
    directory: TempDir,
    /// The directory of the binaries that scripts/release.sh built.
    released: Option<PathBuf>,
    /// The directory of the binaries that scripts/container.sh built.
    linked_statically: Option<PathBuf>,
    envoy: Option<PathBuf>,
    go: Option<PathBuf>,
    /// False if the project's processes write counts at their end, which a sandbox forbids.
    has_sandbox: bool,
}

/// The command line of one process of a stack.
struct Program {
    path: PathBuf,
    args: Vec<OsString>,
}

impl World {
    /// Starts the agent. `RELEASED` may name the directory of the binaries that scripts/release.sh
    /// built, `STATIC` that of scripts/container.sh, `ENVOY` the Envoy binary, `GO_SPIFFE` the built
    /// tests/interop/go-spiffe.
    pub(crate) async fn new() -> Result<Self> {
        let any = format!("{SERVER_ID}=unix:uid:{};dns=localhost", Uid::current());
        let entry = any.parse()?;
        let stack = Stack::with_entries(vec![entry], |config| config.jwt_ttl = TOKEN_TTL).await;
        let directory = tempfile::tempdir()?;
        let from = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let envoy = from("ENVOY").map(PathBuf::from);
        if envoy.is_some() {
            envoy::write_identity(&stack, directory.path()).await?;
        }
        Ok(Self {
            stack,
            directory,
            released: from("RELEASED").map(PathBuf::from),
            linked_statically: from("STATIC").map(PathBuf::from),
            envoy,
            go: from("GO_SPIFFE").map(PathBuf::from),
            has_sandbox: true,
        })
    }

    /// Starts the project's processes without their sandbox, so that they can write counts at their end.
    pub(crate) fn without_sandbox(self) -> Self {
        Self {
            has_sandbox: false,
            ..self
        }
    }

    /// Returns whether all programs of this stack are there.
    pub(crate) fn has(&self, contender: Contender) -> bool {
        match contender {
            Contender::Project | Contender::Floor => true,
            Contender::Plain => self.released.is_some(),
            Contender::Static => self.linked_statically.is_some(),
            Contender::Envoy | Contender::EnvoyUncached => self.envoy.is_some(),
            Contender::GoSpiffe => self.go.is_some(),
        }
    }

    /// Returns the token that the agent would issue to the client.
    pub(crate) fn token(&self) -> String {
        self.stack.token(|_| ())
    }

    /// Returns `count` tokens that all differ.
    pub(crate) fn new_tokens(&self, count: usize) -> Vec<String> {
        let token = |number: usize| {
            let number = number.to_string();
            self.stack
                .token(|claims| claims.payload["jti"] = number.into())
        };
        (0..count).map(token).collect()
    }

    /// Starts both processes of a stack and waits until they accept connections.
    pub(crate) async fn start(&self, contender: Contender) -> Result<Running> {
        self.start_stack(contender, false).await
    }

    /// Starts both processes for requests with bodies. Envoy needs a filter for these, because its
    /// own answers don't wait for the body.
    pub(crate) async fn start_for_bodies(&self, contender: Contender) -> Result<Running> {
        self.start_stack(contender, true).await
    }

    async fn start_stack(&self, contender: Contender, bodies: bool) -> Result<Running> {
        let cached = match contender {
            Contender::Envoy => true,
            Contender::EnvoyUncached => false,
            _ => return self.start_pair::<&str>(contender, &[], &[]).await,
        };
        let [server, proxy] = process::free_ports();
        let mut running = Running::new(proxy);
        let program = self.envoy(server, proxy, Features { cached, bodies })?;
        self.add(&mut running, program, proxy).await?;
        Ok(running)
    }

    /// Starts the project with flags of the server and flags of both.
    pub(crate) async fn start_with(&self, server: &[String], both: &[String]) -> Result<Running> {
        let server = [server, both].concat();
        self.start_pair(Contender::Project, &server, both).await
    }

    /// Starts the project before an application: the server, and the proxy in front of it. `args` are
    /// flags of both.
    pub(crate) async fn start_before(
        &self,
        contender: Contender,
        app: &str,
        args: &[&str],
    ) -> Result<Running> {
        let server = [&["--upstream", app], args].concat();
        let proxy = [&["--path", "/**"], args].concat();
        self.start_pair(contender, &server, &proxy).await
    }

    /// Starts a server and a proxy in front of it, each with these further arguments.
    pub(crate) async fn start_pair<A: AsRef<OsStr>>(
        &self,
        contender: Contender,
        server_args: &[A],
        proxy_args: &[A],
    ) -> Result<Running> {
        let [server, proxy] = process::free_ports();
        let mut running = Running::new(proxy);
        for (role, port, upstream, args) in [
            ("server", server, None, server_args),
            ("proxy", proxy, Some(server), proxy_args),
        ] {
            let mut program = self.program(contender, role, port, upstream)?;
            program
                .args
                .extend(args.iter().map(|arg| arg.as_ref().to_owned()));
            self.add(&mut running, program, port).await?;
        }
        Ok(running)
    }

    /// Starts the project before an application as [`Self::start_before`] does, and a client that listens
    /// in front of the proxy. `args` are flags of all three.
    pub(crate) async fn start_chain(
        &self,
        contender: Contender,
        app: &str,
        args: &[&str],
    ) -> Result<Running> {
        let mut running = self.start_before(contender, app, args).await?;
        let url = format!("https://localhost:{}", running.port);
        let [port] = process::free_ports();
        let mut program = self.program(contender, "client", port, None)?;
        let own = [SERVER_ID, "--url", &url];
        program.args.extend(own.iter().chain(args).map(Into::into));
        self.add(&mut running, program, port).await?;
        running.port = port;
        Ok(running)
    }

    /// Starts only the proxy of a stack, in front of an `upstream` that runs already.
    pub(crate) async fn start_proxy(&self, contender: Contender, upstream: u16) -> Result<Running> {
        let [port] = process::free_ports();
        let mut running = Running::new(port);
        let program = self.program(contender, "proxy", port, Some(upstream))?;
        self.add(&mut running, program, port).await?;
        Ok(running)
    }

    /// Starts the plain build on one core under callgrind, because profiles differ between builds.
    /// Returns the files with the counts of the server and of the proxy, which are complete after
    /// [`Running::end`].
    pub(crate) async fn start_counted(&self, valgrind: &Path) -> Result<(Running, [PathBuf; 2])> {
        let [server, proxy] = process::free_ports();
        let counts = ["server", "proxy"].map(|role| self.directory.path().join(role));
        let mut running = Running::new(proxy);
        let roles = [("server", server, None), ("proxy", proxy, Some(server))];
        for ((role, port, upstream), counted) in roles.into_iter().zip(&counts) {
            let counting = self.program(Contender::Plain, role, port, upstream)?;
            let mut file = OsString::from("--callgrind-out-file=");
            file.push(counted);
            let mut args = vec!["--tool=callgrind".into(), file, counting.path.into()];
            args.extend(["--cores".into(), "1".into()]);
            args.extend(counting.args);
            let path = valgrind.to_owned();
            self.add(&mut running, Program { path, args }, port).await?;
        }
        Ok((running, counts))
    }

    async fn add(&self, running: &mut Running, program: Program, port: u16) -> Result<()> {
        let endpoint = self.stack.agent.endpoint();
        let mut command = process::command(&program.path, &endpoint, &program.args);
        let log = self.directory.path().join(format!("{port}.log"));
        let file = File::create(&log)?;
        command.stdout(file.try_clone()?).stderr(file);
        running.add(command, port).await.with_context(|| {
            let log = fs::read_to_string(&log).unwrap_or_default();
            format!("{}: {}", program.path.display(), log.trim())
        })
    }

    fn program(
        &self,
        contender: Contender,
        role: &str,
        port: u16,
        upstream: Option<u16>,
    ) -> Result<Program> {
        let listen = format!("127.0.0.1:{port}");
        let url = upstream.map(|port| format!("https://localhost:{port}"));
        let (path, args) = match contender {
            Contender::Project | Contender::Plain | Contender::Static => {
                let upstream = url.map(|url| ["--upstream".to_owned(), url]);
                let unrestricted =
                    (!self.has_sandbox).then(|| ["--sandbox".to_owned(), "off".to_owned()]);
                let listen = vec!["--listen".into(), listen];
                let args = [listen, flat(upstream), flat(unrestricted)].concat();
                (self.built(contender, role), args)
            }
            Contender::Floor => {
                let ports = [Some(port), upstream].into_iter().flatten();
                let ports = ports.map(|port| port.to_string()).collect();
                (binary("floor"), [vec![role.to_owned()], ports].concat())
            }
            Contender::GoSpiffe => {
                let upstream = url.map(|url| ["-upstream".to_owned(), url]);
                let own = vec![role.to_owned(), "-listen".into(), listen];
                let path = self.go.clone().context("go-spiffe is missing")?;
                (path, [own, flat(upstream)].concat())
            }
            Contender::Envoy | Contender::EnvoyUncached => bail!("Envoy has no {role} of its own"),
        };
        let args = args.into_iter().map(OsString::from).collect();
        Ok(Program { path, args })
    }

    /// Returns the project's binary of this name, as the contender has it built.
    fn built(&self, contender: Contender, role: &str) -> PathBuf {
        let directory = match contender {
            Contender::Project => self.released.as_ref(),
            Contender::Static => self.linked_statically.as_ref(),
            _ => None,
        };
        directory.map_or_else(|| binary(role), |directory| directory.join(role))
    }

    /// Returns the command line of Envoy, which runs both hops in one process.
    fn envoy(&self, server: u16, proxy: u16, features: Features) -> Result<Program> {
        let config = envoy::write_config(self.directory.path(), server, proxy, features)?;
        Ok(Program {
            path: self.envoy.clone().context("Envoy is missing")?,
            args: vec!["-c".into(), config.into(), "-l".into(), "error".into()],
        })
    }
}

fn flat(flag: Option<[String; 2]>) -> Vec<String> {
    flag.into_iter().flatten().collect()
}
