//! The policy file of a server in front of an application.

/// Checks what the rules let through, and what they refuse.
mod decisions;
/// Checks what the flags of the policy print and refuse.
mod flags;
/// Lets everything pass, and logs what would have been refused.
mod observe;
/// Changes the file under a running server.
mod reload;

use std::{fs, path::PathBuf};

use http::{HeaderMap, Method, Request, Version, header::AUTHORIZATION};
use http_body_util::Full;
use hyper::body::Bytes;
use tempfile::TempDir;

use harness::{Stack, app::App, https::Https, process::Process};

/// A policy with a public path, a path with its own audience, and one for readers.
const POLICY: &str = r#"
[[rule]]
name = "health"
methods = ["GET", "HEAD"]
paths = ["/healthz"]
public = true

[[rule]]
name = "admin"
paths = ["/admin/**"]
callers = ["spiffe://example.org/admin", "spiffe://example.org/client"]
audiences = ["admin-api"]

[[rule]]
name = "orders"
methods = ["GET"]
paths = ["/orders", "/orders/**"]
callers = ["spiffe://example.org/client"]
"#;

/// A directory with a policy file.
struct PolicyFile(TempDir);

impl PolicyFile {
    fn new(text: &str) -> Self {
        let file = Self(tempfile::tempdir().unwrap());
        fs::write(file.path(), text).unwrap();
        file
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("policy.toml")
    }

    fn text(&self) -> String {
        self.path().to_str().unwrap().to_owned()
    }
}

/// A server with a policy, in front of an application.
struct Guarded {
    stack: Stack,
    app: App,
    file: PolicyFile,
    server: Process,
    https: Https,
}

impl Guarded {
    async fn new(policy: &str, args: &[&str]) -> Self {
        Self::of(PolicyFile::new(policy), args).await
    }

    async fn of(file: PolicyFile, args: &[&str]) -> Self {
        let (stack, app) = (Stack::new().await, App::start("http").await);
        let path = file.text();
        let own = ["--upstream", &app.url, "--policy", &path];
        let server = stack.server(&[&own, args].concat()).await;
        let https = stack.https(server.listening().await);
        Self {
            stack,
            app,
            file,
            server,
            https,
        }
    }

    /// Returns a token of this subject and these audiences.
    fn token(&self, subject: &str, audiences: &[&str]) -> String {
        let claims = self.stack.agent.jwt_claims(subject, audiences);
        self.stack.agent.mint_jwt(&claims)
    }

    async fn send(
        &self,
        version: Version,
        method: &Method,
        path: &str,
        token: &str,
    ) -> (u16, HeaderMap) {
        send(&self.https, version, method, path, token).await
    }

    async fn get(&self, path: &str, token: &str) -> u16 {
        let sent = self.send(Version::HTTP_11, &Method::GET, path, token);
        sent.await.0
    }
}

/// Sends a request with this token, or without one if it is empty.
async fn send(
    https: &Https,
    version: Version,
    method: &Method,
    path: &str,
    token: &str,
) -> (u16, HeaderMap) {
    let mut request = Request::builder().method(method).uri(path);
    if !token.is_empty() {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let answer = https.send_over(version, request).await;
    (answer.status.as_u16(), answer.headers)
}
