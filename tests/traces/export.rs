use std::{path::Path, time::Instant};

use harness::{
    Stack,
    admin::Admin,
    https::{Https, get},
    process::{self, Process, free_ports},
    wait::until,
};
use http::StatusCode;

use crate::{
    collector::{Answering, Collector},
    spans::{SPAN, TRACE},
};

/// Starts a server with the built-in answer, whose spans go to `url`.
async fn server(stack: &Stack, url: &str, args: &[&str]) -> (Process, Caller) {
    let args = [&["--otlp-endpoint", url], args].concat();
    let (server, admin) = stack.server_with_admin(&args).await;
    let caller = Caller {
        https: stack.https(server.listening().await),
        bearer: stack.bearer(),
        admin,
    };
    (server, caller)
}

/// Sends sampled requests, and reads what became of their spans.
struct Caller {
    https: Https,
    bearer: String,
    admin: Admin,
}

impl Caller {
    async fn send(&self, requests: usize) {
        let parent = format!("00-{TRACE}-{SPAN}-01");
        let fields = [("traceparent", &*parent), ("authorization", &*self.bearer)];
        for _ in 0..requests {
            assert_eq!(self.https.send(get(&fields)).await.status, 200);
        }
    }

    /// Waits until this number of spans have this end.
    async fn wait_for(&self, end: &str, number: usize) {
        let line = format!("spiffe_spans_total{{role=\"server\",end=\"{end}\"}} {number}");
        until(async || self.admin.get("/metrics").await.body.contains(&line)).await;
    }
}

#[tokio::test]
#[ignore = "scripts/otlp.sh builds its binaries"]
async fn last_spans_are_exported_before_the_process_ends() {
    let (stack, collector) = (Stack::new().await, Collector::start().await);
    let (server, caller) = server(&stack, &collector.url, &[]).await;
    caller.send(3).await;
    server.stop().await;
    assert_eq!(collector.spans().len(), 3);
}

#[tokio::test]
#[ignore = "scripts/otlp.sh builds its binaries"]
async fn process_ends_in_time_if_the_collector_is_silent() {
    let (stack, collector) = (Stack::new().await, Collector::start().await);
    collector.answers(Answering::Silent);
    let (server, caller) = server(&stack, &collector.url, &[]).await;
    caller.send(3).await;
    let begun = Instant::now();
    server.stop().await;
    assert!(begun.elapsed().as_secs() < 15, "{:?}", begun.elapsed());
}

#[tokio::test]
#[ignore = "scripts/otlp.sh builds its binaries"]
async fn spans_that_a_collector_refuses_for_good_are_dropped_and_counted() {
    let (stack, collector) = (Stack::new().await, Collector::start().await);
    let (server, caller) = server(&stack, &collector.url, &[]).await;
    collector.answers(Answering::Refusing(StatusCode::BAD_REQUEST));
    caller.send(2).await;
    caller.wait_for("not_taken", 2).await;
    let line = server.logged("spans are not exported").await;
    assert!(line.contains("it answers 400 Bad Request"), "{line}");
    collector.answers(Answering::Rejecting(1));
    caller.send(1).await;
    caller.wait_for("not_taken", 3).await;
    server.logged("the collector rejects spans: no").await;
    let line = server.logged("spans are exported again").await;
    assert!(line.contains("not_taken=2"), "{line}");
    caller.wait_for("exported", 0).await;
    collector.answers(Answering::Taking);
    caller.send(1).await;
    caller.wait_for("exported", 1).await;
}

#[tokio::test]
#[ignore = "scripts/otlp.sh builds its binaries"]
async fn spans_are_sent_again_to_a_collector_that_fails_for_a_while() {
    let stack = Stack::new().await;
    let [nowhere] = free_ports();
    let (down, collector) = (
        format!("http://127.0.0.1:{nowhere}"),
        Collector::start().await,
    );
    let (one, at_nowhere) = server(&stack, &down, &[]).await;
    at_nowhere.send(1).await;
    one.logged("spans are not exported").await;
    collector.answers(Answering::Refusing(StatusCode::SERVICE_UNAVAILABLE));
    let (other, caller) = server(&stack, &collector.url, &[]).await;
    caller.send(2).await;
    let line = other.logged("spans are not exported").await;
    assert!(line.contains("503"), "{line}");
    collector.answers(Answering::Taking);
    collector.wait_for(2).await;
    caller.wait_for("exported", 2).await;
    at_nowhere.wait_for("not_taken", 1).await;
}

#[tokio::test]
#[ignore = "scripts/otlp.sh builds its binaries"]
async fn spans_over_the_limit_are_dropped_and_counted() {
    let (stack, collector) = (Stack::new().await, Collector::start().await);
    let (_server, caller) = server(&stack, &collector.url, &["--otlp-max-spans", "2"]).await;
    caller.send(6).await;
    until(async || {
        let page = caller.admin.get("/metrics").await.body;
        let count = |end: &str| -> usize {
            let name = format!("spiffe_spans_total{{role=\"server\",end=\"{end}\"}} ");
            let line = page.lines().find_map(|line| line.strip_prefix(&name));
            line.unwrap().parse().unwrap()
        };
        count("over_limit") > 0 && count("over_limit") + count("exported") == 6
    })
    .await;
    assert!(collector.spans().len() < 6);
}

#[tokio::test]
#[ignore = "scripts/otlp.sh builds its binaries"]
async fn collector_behind_tls_is_verified_by_its_host_name() {
    let stack = Stack::new().await;
    let collector = Collector::behind_tls(&stack).await;
    let directory = tempfile::tempdir().unwrap();
    let [right, wrong] = ["right.pem", "wrong.pem"].map(|name| directory.path().join(name));
    std::fs::write(&right, stack.agent.x509_bundle_pem()).unwrap();
    let other = harness::x509::Authority::root();
    std::fs::write(&wrong, other.pem()).unwrap();
    let flags = |ca: &Path| ["--otlp-ca".to_owned(), ca.to_str().unwrap().to_owned()];
    let [right, wrong] = [flags(&right), flags(&wrong)];
    let (verifying, caller) =
        server(&stack, &collector.url, &right.each_ref().map(|one| &**one)).await;
    caller.send(1).await;
    collector.wait_for(1).await;
    verifying.stop().await;
    let (refusing, caller) =
        server(&stack, &collector.url, &wrong.each_ref().map(|one| &**one)).await;
    caller.send(1).await;
    refusing.logged("invalid peer certificate").await;
    assert_eq!(collector.spans().len(), 1);
}

#[tokio::test]
#[ignore = "scripts/otlp.sh builds its binaries"]
async fn collector_that_cannot_be_verified_is_refused_before_the_process_listens() {
    let stack = Stack::new().await;
    let endpoint = stack.agent.endpoint();
    let https = ["--otlp-endpoint", "https://localhost:4318"];
    let ca = ["--otlp-ca", "/nowhere/ca.pem"];
    for (args, text) in [
        (&https as &[&str], "--otlp-ca is missing"),
        (
            &[&https[..], &ca].concat(),
            "--otlp-ca /nowhere/ca.pem: No such file",
        ),
        (
            &["--otlp-endpoint", "localhost:4317"],
            "for example http://127.0.0.1:4318",
        ),
    ] {
        for name in ["server", "proxy", "client"] {
            let listen = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
            for doctor in [&[] as &[&str], &["--doctor"]] {
                let args = [&listen, args, doctor].concat();
                let output = process::output(name, &endpoint, &args).await;
                let error = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(2), "{name} {args:?}: {error}");
                assert!(error.contains(text), "{name} {args:?}: {error}");
                assert!(!error.contains("listen"), "{name} {args:?}: {error}");
            }
        }
    }
}

#[tokio::test]
#[ignore = "scripts/otlp.sh builds its binaries"]
async fn flag_that_cannot_be_used_is_refused_with_an_example_or_the_remedy() {
    let stack = Stack::new().await;
    let endpoint = stack.agent.endpoint();
    let http = ["--otlp-endpoint", "http://127.0.0.1:4318"];
    for (args, text) in [
        (
            &[&http[..], &["--otlp-ca", "ca.pem"]].concat() as &[&str],
            "remove it, or use https",
        ),
        (&["--otlp-ca", "ca.pem"], "--otlp-endpoint <URL>"),
        (&["--otlp-sample", "1.5"], "for example 0.01"),
        (&["--otlp-sample", "NaN"], "for example 0.01"),
        (&["--otlp-max-spans", "0"], "not in 1.."),
        (&["--otlp-resource", "a"], "deployment.environment.name"),
        (
            &["--otlp-resource", "b=c,=a"],
            "deployment.environment.name",
        ),
    ] {
        let output = process::output("server", &endpoint, args).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
        assert!(error.contains(text), "{args:?}: {error}");
    }
}

#[tokio::test]
#[ignore = "scripts/otlp.sh builds its binaries"]
async fn process_that_serves_no_requests_refuses_a_collector() {
    let stack = Stack::new().await;
    let endpoint = stack.agent.endpoint();
    let collector = ["--otlp-endpoint", "http://127.0.0.1:4318"];
    for (name, args) in [
        ("server", &["--ext-authz", "127.0.0.1:0"] as &[&str]),
        ("client", &["--every", "1s"]),
        ("client", &[]),
    ] {
        let output = process::output(name, &endpoint, &[args, &collector].concat()).await;
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name} {args:?}: {text}");
        assert!(text.contains("has no effect"), "{text}");
    }
}
