//! Starts an application in Python behind our binaries, and one in front of them.

use std::{fs, path::PathBuf};

use harness::{Stack, process::Process, x509::pem};
use tempfile::TempDir;

use crate::{nginx::Balancer, python::Python};

/// Runs a server in Python behind our binaries.
pub(crate) struct App {
    pub(crate) stack: Stack,
    python: Python,
    /// The port that callers use.
    pub(crate) port: u16,
    /// The certificates that callers trust, if they use TLS.
    roots: Option<PathBuf>,
    _processes: Vec<Process>,
    _files: TempDir,
}

/// Runs `server --upstream`, a proxy or nginx, and `client --listen` before an application without TLS.
pub(crate) struct Chain {
    stack: Stack,
    /// The port that callers use without TLS.
    pub(crate) port: u16,
    processes: Vec<Process>,
    /// The files that the processes read.
    files: TempDir,
}

impl Chain {
    /// Starts our binaries before an application that has started, and that speaks `scheme`.
    pub(crate) async fn before(app: Process, scheme: &str) -> Self {
        let (stack, server) = server_before(&app, scheme).await;
        let upstream = server.listening().await;
        let proxy = stack.proxy(upstream, &["--path", "/**"]).await;
        let url = format!("https://localhost:{}", proxy.listening().await);
        let client = stack.spawn("client", &["--listen", "127.0.0.1:0", "--url", &url]);
        Self {
            stack,
            port: client.listening().await,
            processes: vec![app, server, proxy, client],
            files: tempfile::tempdir().unwrap(),
        }
    }

    /// Does the same as [`Self::before`], with nginx in place of the proxy.
    async fn with_nginx(app: Process, scheme: &str) -> Option<Self> {
        let (stack, server) = server_before(&app, scheme).await;
        let nginx = Balancer::before(&stack, server.listening().await).await?;
        let client = nginx.client(&stack);
        Some(Self {
            stack,
            port: client.listening().await,
            processes: vec![app, server, nginx.process, client],
            files: nginx.files,
        })
    }
}

/// Starts a server before an application.
async fn server_before(app: &Process, scheme: &str) -> (Stack, Process) {
    let stack = Stack::new().await;
    let app = format!("{scheme}://127.0.0.1:{}", app.listening().await);
    let server = stack.server(&["--upstream", &app]).await;
    (stack, server)
}

impl App {
    /// Starts the server program with the test's own X.509-SVID, and a proxy in front of it.
    pub(crate) async fn behind_the_proxy(server: &str, path: &str) -> Option<Self> {
        let python = Python::new().await?;
        let stack = Stack::new().await;
        let files = tempfile::tempdir().unwrap();
        let path_of = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
        let svid = stack.identity().await.x509.svid().unwrap();
        let certificates = svid.cert_chain().iter();
        let chain: Vec<_> = certificates
            .map(|one| pem("CERTIFICATE", one.as_bytes()))
            .collect();
        let key = pem("PRIVATE KEY", svid.private_key().as_bytes());
        fs::write(path_of("key"), key).unwrap();
        fs::write(path_of("chain"), chain.concat()).unwrap();
        let roots = files.path().join("roots");
        fs::write(&roots, stack.agent.x509_bundle_pem()).unwrap();
        let server = python.spawn(server, &[&path_of("key"), &path_of("chain")]);
        let upstream = server.listening().await;
        let proxy = stack.proxy(upstream, &["--path", path]).await;
        Some(Self {
            stack,
            python,
            port: proxy.listening().await,
            roots: Some(roots),
            _processes: vec![server, proxy],
            _files: files,
        })
    }

    /// Starts the server program without TLS behind all of our binaries.
    pub(crate) async fn behind_all(server: &str, scheme: &str) -> Option<Self> {
        let python = Python::new().await?;
        let chain = Chain::before(python.spawn(server, &[]), scheme).await;
        Some(Self::of(python, chain))
    }

    /// Does the same as [`Self::behind_all`], with nginx in place of the proxy.
    pub(crate) async fn behind_nginx(server: &str, scheme: &str) -> Option<Self> {
        let python = Python::new().await?;
        let chain = Chain::with_nginx(python.spawn(server, &[]), scheme).await?;
        Some(Self::of(python, chain))
    }

    fn of(python: Python, chain: Chain) -> Self {
        Self {
            stack: chain.stack,
            python,
            port: chain.port,
            roots: None,
            _processes: chain.processes,
            _files: chain.files,
        }
    }

    /// Runs the client program, and returns what it prints.
    pub(crate) async fn run(&self, client: &str, args: &[&str]) -> String {
        self.run_against(self.port, client, args).await
    }

    /// Runs the client program against another port.
    pub(crate) async fn run_against(&self, port: u16, client: &str, args: &[&str]) -> String {
        let roots = self.roots.as_deref().map(|roots| roots.to_str().unwrap());
        let port = port.to_string();
        let args = [&[roots.unwrap_or("-"), &port], args].concat();
        let output = self.python.run(client, &args).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }
}
