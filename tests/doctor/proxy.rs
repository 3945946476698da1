use std::net::TcpListener;

use harness::{SERVER_ID, Stack, process::free_ports, upstream};

use crate::diagnosis::{self, Diagnosis, GOOD_IDENTITY, expected};

async fn diagnose(stack: &Stack, upstream: u16, args: &[&str]) -> Diagnosis {
    let url = format!("https://127.0.0.1:{upstream}");
    let all = ["--listen", "127.0.0.1:0", "--upstream", &url];
    let args = [&all, args].concat();
    Diagnosis::of("proxy", &stack.agent.endpoint(), &args).await
}

#[tokio::test]
async fn good_proxy_is_ok_in_each_step() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let port = server.listening().await;
    let diagnosis = diagnose(&stack, port, &[]).await;
    let open_files = diagnosis.step("open-files");
    assert_eq!(
        diagnosis.with_port(port).replace(&open_files, "OPEN-FILES"),
        expected(&[
            "\
ok         listen        --listen 127.0.0.1:0 can be bound
OPEN-FILES
",
            GOOD_IDENTITY,
            "\
ok         name          https://127.0.0.1:PORT/ is 127.0.0.1:PORT
ok         tcp           127.0.0.1:PORT accepts
ok         tls           the peer is spiffe://example.org/server; TLS 1.3, h2, until TIME (in SPAN)
ok         answer        GET / without a token: 401 Unauthorized
no step failed, 0 with a warning
"
        ])
    );
    assert_eq!(diagnosis.status, 0);
}

#[tokio::test]
async fn upstream_that_is_away_gives_status_15_and_the_others_are_tried() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let good = format!("https://127.0.0.1:{}", server.listening().await);
    let [port] = free_ports();
    let diagnosis = diagnose(&stack, port, &["--upstream", &good]).await;
    diagnosis.failed(15, "tcp", "Connection refused");
    let answer = format!("[{good}/] GET / without a token: 401 Unauthorized");
    assert!(diagnosis.text.contains(&answer), "{}", diagnosis.text);
}

#[tokio::test]
async fn upstream_with_another_spiffe_id_gives_status_16() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let port = server.listening().await;
    let args = ["--upstream-id", "spiffe://example.org/other"];
    let diagnosis = diagnose(&stack, port, &args).await;
    diagnosis.failed(
        16,
        "tls",
        "expected spiffe://example.org/other, presented spiffe://example.org/server",
    );
    assert!(diagnosis.step("tls").contains("say so with --upstream-id"));
    let log = server.log().join("\n");
    assert!(
        !log.contains("Malformed header"),
        "no request was sent: {log}"
    );
}

#[tokio::test]
async fn upstream_of_a_trust_domain_without_a_bundle_gives_status_12() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let port = server.listening().await;
    let args = ["--upstream-id", "spiffe://partner.example/server"];
    let diagnosis = diagnose(&stack, port, &args).await;
    diagnosis.failed(
        12,
        "x509-bundles",
        "no bundle for trust domain partner.example",
    );
    assert!(diagnosis.step("tls").starts_with("failed "));
}

#[tokio::test]
async fn withdrawn_identity_gives_status_11_and_the_upstream_is_still_reached() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let port = server.listening().await;
    stack.agent.withdraw(&SERVER_ID.parse().unwrap());
    let diagnosis = diagnose(&stack, port, &[]).await;
    diagnosis.failed(11, "identity", "no registration entry matches this process");
    assert!(diagnosis.step("tcp").starts_with("ok "));
    assert!(diagnosis.step("tls").starts_with("not tried "));
}

#[tokio::test]
async fn upstream_that_answers_503_is_a_warning() {
    let stack = Stack::new().await;
    let port = upstream::answering(&stack, &["h2"], async |_| {
        serve::body::status(http::StatusCode::SERVICE_UNAVAILABLE)
    })
    .await;
    let diagnosis = diagnose(&stack, port, &[]).await;
    assert_eq!(diagnosis.status, 0, "{}", diagnosis.text);
    let step = diagnosis.step("answer");
    assert!(
        step.starts_with("warning ") && step.contains("503"),
        "{step}"
    );
}

#[tokio::test]
async fn address_in_use_gives_status_19_in_json_too() {
    let stack = Stack::new().await;
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let endpoint = stack.agent.endpoint();
    let args = ["--listen", &address, "--upstream", "https://127.0.0.1:1"];
    let json = diagnosis::json("proxy", &endpoint, &args).await;
    assert_eq!(json["exit_status"], 19);
    assert_eq!(json["first_failed"], "listen");
}
