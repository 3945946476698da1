use std::time::Duration;

use harness::{
    PATIENCE, SERVER_ID, Stack, binary,
    fake_workload_api::{Call, Fake, Genuine, token},
    process,
    wait::until,
};
use tokio::time::Instant;
use tonic::{Code, Status};

/// This time allows several attempts.
const SHORT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn address_is_the_flag_then_the_variable_then_the_default_w151() {
    let flag = &["--workload-api", "unix:///nowhere/flag"] as &[&str];
    for (number, args, variable, status, text) in [
        (
            "W151 variable",
            &[] as &[&str],
            Some("unix:///nowhere/env"),
            1,
            "at unix:///nowhere/env",
        ),
        (
            "W151 flag wins",
            flag,
            Some("unix:///nowhere/env"),
            1,
            "at unix:///nowhere/flag",
        ),
        ("W151 flag alone", flag, None, 1, "at unix:///nowhere/flag"),
        (
            "W151 default",
            &["--help"],
            None,
            0,
            "[default: unix:///tmp/agent.sock]",
        ),
        ("W152", &[], Some(""), 2, "the address is empty"),
        ("W154", &[], Some("unix://a/b"), 2, "no host part"),
        (
            "W165",
            &[],
            Some("tcp://192.0.2.1:1"),
            2,
            "private keys would cross the network",
        ),
    ] {
        for (name, limit) in [
            ("server", "SERVER_STARTUP_TIMEOUT"),
            ("proxy", "PROXY_STARTUP_TIMEOUT"),
            ("client", "CLIENT_MAX_TIME"),
        ] {
            let mut command = process::command(&binary(name), "", args);
            command
                .env_remove("SPIFFE_ENDPOINT_SOCKET")
                .env(limit, "300ms");
            // Serving binaries try their port before they ask for an identity.
            if let Some(prefix) = limit.strip_suffix("STARTUP_TIMEOUT") {
                command.env(format!("{prefix}LISTEN"), "127.0.0.1:0");
            }
            if let Some(variable) = variable {
                command.env("SPIFFE_ENDPOINT_SOCKET", variable);
            }
            let output = command.output().await.unwrap();
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8(said).unwrap();
            assert_eq!(
                output.status.code(),
                Some(status),
                "{number}, {name}: {said}"
            );
            assert!(said.contains(text), "{number}, {name}: {said}");
        }
    }
}

#[tokio::test]
async fn permanent_error_ends_start_up_at_once_w167() {
    let stack = Stack::new().await;
    let genuine = Genuine::of(&stack).await;
    for (number, code, retried, text) in [
        (
            "W167 D26",
            Code::InvalidArgument,
            false,
            "does not offer the SPIFFE Workload API",
        ),
        (
            "W168",
            Code::Unimplemented,
            false,
            "does not offer the SPIFFE Workload API",
        ),
        (
            "W169",
            Code::PermissionDenied,
            true,
            "no registration entry matches this process",
        ),
        ("W166", Code::Unavailable, true, "told to"),
    ] {
        let fake = Fake::new(&genuine);
        let status = Status::new(code, "told to");
        fake.say_x509(Err(status));
        let began = Instant::now();
        let error = fake.workload_api(SHORT).x509().await.unwrap_err();
        assert!(error.to_string().contains(text), "{number}: {error}");
        let calls = fake.wait_for_calls(Call::X509, 1).await;
        assert_eq!(calls.len() > 1, retried, "{number}");
        assert!(
            began.elapsed() < PATIENCE / 2,
            "{number}, D34: the time is bounded"
        );
        if retried {
            let waits: Vec<_> = calls.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(
                waits.len() < 10 && waits[0] >= Duration::from_millis(50),
                "D27: {waits:?}"
            );
        }
    }
}

#[tokio::test]
async fn entry_that_is_registered_later_is_found_w169() {
    let stack = Stack::new().await;
    let genuine = Genuine::of(&stack).await;
    let fake = Fake::new(&genuine);
    let no = Status::permission_denied("no identity issued");
    fake.say_x509(Err(no));
    let api = fake.workload_api(PATIENCE);
    let starting = tokio::spawn(async move { api.x509().await });
    fake.wait_for_calls(Call::X509, 2).await;
    fake.say_x509(Ok(genuine.x509));
    starting.await.unwrap().unwrap();
}

#[tokio::test]
async fn absent_agent_is_an_error_within_the_time_given_w166() {
    let directory = tempfile::tempdir().unwrap();
    let endpoint = format!("unix://{}/none.sock", directory.path().display());
    let api = common::workload::WorkloadApi::new(endpoint.parse().unwrap(), SHORT);
    let began = Instant::now();
    let error = api.identity().await.unwrap_err().to_string();
    assert!(
        error.contains("no such socket") && error.contains(&endpoint),
        "{error}"
    );
    assert!(began.elapsed() < PATIENCE / 2);
}

/// Returns a fake whose X.509-SVIDs have expired, as those of an agent that has lost its server.
async fn cut_off(stack: &Stack) -> Fake {
    let short = Stack::with(SERVER_ID, |config| config.x509_ttl = Duration::from_secs(2)).await;
    let mut genuine = Genuine::of(stack).await;
    let mut expired = Genuine::of(&short).await.x509.svids.remove(0);
    expired.bundle.clone_from(&genuine.x509.svids[0].bundle);
    let end = expiry(&expired.x509_svid);
    until(async || harness::jwt::now() as i64 > end).await;
    genuine.x509.svids = vec![expired];
    Fake::new(&genuine)
}

fn expiry(svid: &[u8]) -> i64 {
    let (_, certificate) = x509_parser::parse_x509_certificate(svid).unwrap();
    certificate.validity().not_after.timestamp()
}

#[tokio::test]
async fn expired_svid_is_the_reason_that_is_reported_once_w166() {
    let stack = Stack::new().await;
    let fake = cut_off(&stack).await;
    let args = ["--listen", "127.0.0.1:0", "--startup-timeout", "3s"];
    for name in ["server", "proxy"] {
        let output = process::output(name, &fake.endpoint(), &args).await;
        let said = String::from_utf8(output.stderr).unwrap();
        let error = said.lines().last().unwrap();
        assert_eq!(
            error.matches("it expired at 20").count(),
            1,
            "{name}: {said}"
        );
        assert!(error.contains("cut off from its server"), "{name}: {said}");
        assert!(!said.contains("did not answer"), "{name}: {said}");
    }
}

/// The client presents no certificate.
#[tokio::test]
async fn client_needs_bundles_and_a_token_only() {
    let stack = Stack::new().await;
    let fake = cut_off(&stack).await;
    let server = stack.server(&[]).await;
    let url = format!("https://localhost:{}/", server.listening().await);
    let token = token(stack.token(|_| ()));
    *fake.script.tokens.lock().unwrap() = vec![token];
    for args in [
        &["--url", &url] as &[&str],
        &["--url", &url, "--repeat", "2", "--every", "1ms"],
    ] {
        let output = process::output("client", &fake.endpoint(), args).await;
        assert!(output.status.success(), "{output:?}");
    }
    let calls = fake.wait_for_calls(Call::X509Bundles, 2).await;
    assert_eq!(calls.len(), 2);
    fake.say_x509(Err(Status::internal("nobody asks")));
    let output = process::output("client", &fake.endpoint(), &["--print-bundle"]).await;
    assert!(output.stdout.starts_with(b"-----BEGIN CERTIFICATE-----"));
}
