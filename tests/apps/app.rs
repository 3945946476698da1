//! An application in Python with the test's own X.509-SVID, and a proxy in front of it.

use std::fs;

use harness::{Stack, process::Process};
use tempfile::TempDir;

use crate::python::Python;

/// Runs a server in Python, and a proxy in front of it.
pub(crate) struct App {
    pub(crate) stack: Stack,
    python: Python,
    proxy: Process,
    files: TempDir,
    _server: Process,
}

impl App {
    /// Starts the server program, and the proxy with these `args`.
    pub(crate) async fn new(server: &str, args: &[&str]) -> Option<Self> {
        let python = Python::new().await?;
        let stack = Stack::new().await;
        let files = tempfile::tempdir().unwrap();
        let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
        let svid = stack.identity().await.x509.svid().unwrap();
        let certificates = svid.cert_chain().iter();
        let chain: Vec<_> = certificates
            .map(|one| pem("CERTIFICATE", one.as_bytes()))
            .collect();
        let key = pem("PRIVATE KEY", svid.private_key().as_bytes());
        fs::write(path("key"), key).unwrap();
        fs::write(path("chain"), chain.concat()).unwrap();
        fs::write(path("roots"), stack.agent.x509_bundle_pem()).unwrap();
        let server = python.spawn(server, &[&path("key"), &path("chain")]);
        let proxy = stack.proxy(server.listening().await, args).await;
        Some(Self {
            stack,
            python,
            proxy,
            files,
            _server: server,
        })
    }

    /// Returns the port of the proxy.
    pub(crate) async fn port(&self) -> u16 {
        self.proxy.listening().await
    }

    /// Runs the client program against `port`, and returns what it prints.
    pub(crate) async fn run(&self, client: &str, port: u16, args: &[&str]) -> String {
        let (roots, port) = (self.files.path().join("roots"), port.to_string());
        let args = [&[roots.to_str().unwrap(), &port], args].concat();
        let output = self.python.run(client, &args).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let lines = text
        .as_bytes()
        .chunks(64)
        .map(|line| str::from_utf8(line).unwrap());
    let lines = lines.collect::<Vec<_>>().join("\n");
    format!("-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n")
}
