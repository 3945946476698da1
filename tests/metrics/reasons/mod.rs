//! Provokes each reason of a refusal that no other test counts, and reads the same word from the log, from
//! `/metrics` and from the status page.

/// Refuses callers.
mod callers;
/// Ends connections before their first request.
mod connections;
/// Refuses requests.
mod requests;
/// Fails at upstreams.
mod upstreams;

use common::reason::Reason;
use harness::{
    Stack,
    admin::{ADMIN, Admin},
    binary,
    https::Https,
    metrics::Page,
    process::{self, Process},
    wait::until,
};

/// A process on a free port, with its admin listener and a line for each refused request.
struct Watched {
    process: Process,
    admin: Admin,
    https: Https,
}

impl Watched {
    /// Starts a binary that uses the agent of `stack`.
    async fn start(stack: &Stack, name: &str, args: &[&str]) -> Self {
        Self::at(stack, &stack.agent.endpoint(), name, args).await
    }

    /// Does the same as [`Self::start`] with another Workload API.
    async fn at(stack: &Stack, endpoint: &str, name: &str, args: &[&str]) -> Self {
        let always = ["--listen", "127.0.0.1:0", "--log-requests", "refused"];
        let args = [&always, &ADMIN[..], args].concat();
        let mut command = process::command(&binary(name), endpoint, &args);
        command.env("RUST_LOG", "info,serve=debug");
        let process = Process::spawn(command);
        let port = process.listening().await;
        let https = match name {
            "client" => Https::plain(port),
            _ => stack.https(port),
        };
        Self {
            admin: Admin::of(&process).await,
            process,
            https,
        }
    }

    /// Starts a proxy in front of an upstream.
    async fn proxy(stack: &Stack, upstream: u16, args: &[&str]) -> Self {
        let upstream = format!("https://localhost:{upstream}");
        let args = [&["--upstream", &upstream], args].concat();
        Self::start(stack, "proxy", &args).await
    }

    /// Asserts that the log, the metrics and, for a warning, the status page have a reason.
    async fn has(&self, status: u16, reason: Reason) {
        let said = format!("status={status} reason={reason} ");
        self.process.logged(&said).await;
        let counted = format!("spiffe_refusals_total{{reason=\"{reason}\"}}");
        until(async || Page::of(&self.admin).await.at(&counted) >= 1.0).await;
        let log = self.process.log();
        if log.iter().any(|line| is_warning(line, reason)) {
            let shown = format!("<span class=\"reason\">{reason}</span> {status}");
            let page = self.admin.page().await.body;
            assert!(page.contains(&shown), "{shown}: {page}");
        }
    }
}

fn is_warning(line: &str, reason: Reason) -> bool {
    let of_reason = format!("reason={reason}");
    line.contains(" WARN ") && line.split(' ').any(|word| word == of_reason)
}
