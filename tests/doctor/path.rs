//! The path of a request, with every process on it.

use harness::{
    Stack,
    process::{self, Process},
};

use crate::diagnosis::{self, Diagnosis};

/// A stack with a server and a proxy before it.
pub(crate) struct Path {
    pub(crate) stack: Stack,
    pub(crate) server: Process,
    _proxy: Process,
    pub(crate) port: u16,
}

impl Path {
    pub(crate) async fn new() -> Self {
        let stack = Stack::new().await;
        let server = stack.server(&[]).await;
        let proxy = stack.proxy(server.listening().await, &[]).await;
        Self {
            port: proxy.listening().await,
            _proxy: proxy,
            server,
            stack,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}/", self.port)
    }

    pub(crate) async fn diagnose(&self, args: &[&str]) -> Diagnosis {
        let url = self.url();
        let args = [&["--url", &url], args].concat();
        Diagnosis::of("client", &self.stack.agent.endpoint(), &args).await
    }

    /// Runs the client itself with the same flags, and checks that it fails for the same reason.
    pub(crate) async fn fails_as(&self, diagnosis: &Diagnosis, args: &[&str]) {
        let url = self.url();
        let args = [&["--url", &url, "-m", "5s"], args].concat();
        let endpoint = self.stack.agent.endpoint();
        let output = process::output("client", &endpoint, &args).await;
        let errors = String::from_utf8(output.stderr).unwrap();
        let errors = diagnosis::without_paths("client", &endpoint, &errors);
        let reason = errors.trim().trim_start_matches("client: ");
        let at = "no identity from the Workload API at unix:///agent.sock: ";
        let reason = reason.trim_start_matches(at);
        let text = &diagnosis.text;
        assert!(text.contains(reason), "{reason}\n{text}");
    }
}
