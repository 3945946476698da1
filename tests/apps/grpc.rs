use std::fs;

use harness::{Stack, process::Process};
use tempfile::TempDir;

use crate::python::Python;

/// Runs a gRPC server in Python with the test's own X.509-SVID, and a proxy in front of it.
struct Calls {
    stack: Stack,
    python: Python,
    _server: Process,
    proxy: Process,
    files: TempDir,
}

impl Calls {
    async fn new(args: &[&str]) -> Option<Self> {
        let python = Python::new().await?;
        let stack = Stack::new().await;
        let files = tempfile::tempdir().unwrap();
        let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
        let svid = stack.identity().await.x509.svid().unwrap();
        let chain: Vec<_> = svid
            .cert_chain()
            .iter()
            .map(|one| pem("CERTIFICATE", one.as_bytes()))
            .collect();
        fs::write(
            path("key"),
            pem("PRIVATE KEY", svid.private_key().as_bytes()),
        )
        .unwrap();
        fs::write(path("chain"), chain.concat()).unwrap();
        fs::write(path("roots"), stack.agent.x509_bundle_pem()).unwrap();
        let server = python.spawn("grpc_server.py", &[&path("key"), &path("chain")]);
        let upstream = server.listening().await;
        let proxy = stack
            .proxy(upstream, &[&["--path", "/test.Calls/**"], args].concat())
            .await;
        Some(Self {
            stack,
            python,
            _server: server,
            proxy,
            files,
        })
    }

    /// Makes the calls of a group through `port`, and returns what the client prints.
    async fn call(&self, port: u16, group: &[&str]) -> String {
        let roots = self.files.path().join("roots");
        let port = port.to_string();
        let args = [&[roots.to_str().unwrap(), &port], group].concat();
        let output = self.python.run("grpc_client.py", &args).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{group:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn through_the_proxy(&self, group: &[&str]) -> String {
        self.call(self.proxy.listening().await, group).await
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(|line| str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

#[tokio::test]
async fn calls_of_all_kinds_cross_the_proxy_h003() {
    let Some(calls) = Calls::new(&[]).await else {
        return;
    };
    for group in ["unary", "large", "streams", "turns", "errors"] {
        calls.through_the_proxy(&[group]).await;
    }
}

#[tokio::test]
async fn deadlines_and_cancels_reach_the_server_h004() {
    for group in ["deadlines", "cancels"] {
        let Some(calls) = Calls::new(&[]).await else {
            return;
        };
        calls.through_the_proxy(&[group]).await;
    }
}

#[tokio::test]
async fn errors_of_the_proxy_are_grpc_statuses_h005() {
    let Some(calls) = Calls::new(&[]).await else {
        return;
    };
    for (path, code, details) in [
        ("/**", "UNAVAILABLE", "Bad Gateway"),
        ("/other", "UNIMPLEMENTED", "Not Found"),
    ] {
        let nobody = 1;
        let proxy = calls.stack.proxy(nobody, &["--path", path]).await;
        let port = proxy.listening().await;
        calls.call(port, &["one", code, details]).await;
    }
}

#[tokio::test]
async fn refusals_of_the_server_are_grpc_statuses_with_their_challenge_h005() {
    let Some(calls) = Calls::new(&[]).await else {
        return;
    };
    let server = calls
        .stack
        .server(&["--allow", "spiffe://example.org/other"])
        .await;
    let port = server.listening().await;
    let told = calls
        .call(port, &["one", "UNAUTHENTICATED", "Unauthorized"])
        .await;
    assert!(told.contains(r#"'www-authenticate': 'Bearer"#), "{told}");
    let token = format!("authorization=Bearer {}", calls.stack.token(|_| ()));
    let told = calls
        .call(port, &["one", "PERMISSION_DENIED", "Forbidden", &token])
        .await;
    assert!(told.contains("insufficient_scope"), "{told}");
}
