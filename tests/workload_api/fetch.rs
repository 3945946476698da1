use std::time::Duration;

use common::workload::tokens::TokenSource;
use harness::{
    CLIENT_ID, PATIENCE, SERVER_ID, Stack, binary,
    fake_workload_api::{Call, Fake, Genuine, token},
    process,
};
use serde_json::json;
use tonic::{Code, Status};

const AUDIENCE: &str = "spiffe://example.org/server";

#[tokio::test]
async fn token_that_was_not_asked_for_is_not_used_w179() {
    let stack = Stack::new().await;
    let genuine = Genuine::of(&stack).await;
    let id = CLIENT_ID.parse().unwrap();
    let with = |name: &str, value| stack.token(|claims| claims.payload[name] = value);
    for (number, svid, accepted) in [
        ("W179 as asked", stack.token(|_| ()), true),
        (
            "W179 one audience, as a string",
            with("aud", json!(AUDIENCE)),
            true,
        ),
        (
            "W179 another audience",
            with("aud", json!(["other"])),
            false,
        ),
        (
            "W179 more audiences",
            with("aud", json!([AUDIENCE, "other"])),
            false,
        ),
        ("W179 another subject", with("sub", json!(SERVER_ID)), false),
        ("D18 expired", with("exp", json!(1_000_000_000)), false),
        ("W174 no token", "x".to_owned(), false),
    ] {
        let fake = Fake::new(&genuine);
        *fake.script.tokens.lock().unwrap() = vec![token(svid)];
        let api = fake.workload_api(PATIENCE);
        let fetched = api.fetch_jwt_svid(&[AUDIENCE], Some(&id)).await;
        assert_eq!(fetched.is_ok(), accepted, "{number}: {fetched:?}");
    }
}

#[tokio::test]
async fn bad_token_next_to_the_chosen_one_changes_nothing_w175() {
    let stack = Stack::new().await;
    let fake = Fake::new(&Genuine::of(&stack).await);
    let mut answer = token(stack.token(|_| ())).unwrap();
    answer.svids.extend(token("x".to_owned()).unwrap().svids);
    *fake.script.tokens.lock().unwrap() = vec![Ok(answer.clone())];
    let api = fake.workload_api(PATIENCE);
    let fetched = api.fetch_jwt_svid(&[AUDIENCE], None).await;
    fetched.expect("D29");
    answer.svids.reverse();
    *fake.script.tokens.lock().unwrap() = vec![Ok(answer)];
    let error = api.fetch_jwt_svid(&[AUDIENCE], None).await.unwrap_err();
    assert!(error.to_string().contains("can't be used"), "{error}");
}

#[tokio::test]
async fn agent_that_is_not_available_is_asked_once_more_w181() {
    let stack = Stack::new().await;
    let genuine = Genuine::of(&stack).await;
    let good = || token(stack.token(|_| ()));
    let no = |code| Err(Status::new(code, "no"));
    for (number, answers, calls, accepted) in [
        ("W181 once", vec![no(Code::Unavailable), good()], 2, true),
        (
            "W181 twice",
            vec![no(Code::Unavailable), no(Code::Unavailable), good()],
            2,
            false,
        ),
        ("W167", vec![no(Code::InvalidArgument), good()], 1, false),
        ("W168", vec![no(Code::Unimplemented), good()], 1, false),
    ] {
        let fake = Fake::new(&genuine);
        *fake.script.tokens.lock().unwrap() = answers;
        let api = fake.workload_api(PATIENCE);
        let fetched = api.fetch_jwt_svid(&[AUDIENCE], None).await;
        assert_eq!(fetched.is_ok(), accepted, "{number}: {fetched:?}");
        assert_eq!(
            fake.wait_for_calls(Call::Token, calls).await.len(),
            calls,
            "{number}"
        );
    }
}

#[tokio::test]
async fn agent_that_does_not_answer_ends_the_wait_in_time_w166() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mute.sock");
    let _mute = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let address = format!("unix://{}", path.display()).parse().unwrap();
    let api = common::workload::WorkloadApi::new(address, Duration::from_millis(100));
    let error = api.fetch_jwt_svid(&[AUDIENCE], None).await.unwrap_err();
    assert!(
        error.to_string().contains("did not answer in time"),
        "{error}"
    );
}

/// The error has the text of the agent, and names the flags that can be changed.
#[tokio::test]
async fn refused_request_is_reported_with_the_text_of_the_agent_w167() {
    let stack = Stack::new().await;
    let fake = Fake::new(&Genuine::of(&stack).await);
    for (status, expected) in [
        (
            Status::invalid_argument("audience x is not allowed here"),
            "the agent refuses the request for a JWT-SVID: audience x is not allowed here; change",
        ),
        (
            Status::unavailable("could not reach the server: connection refused"),
            "the agent answers Unavailable: could not reach the server: connection refused",
        ),
        (Status::internal(""), "the agent answers Internal"),
    ] {
        *fake.script.tokens.lock().unwrap() = vec![Err(status)];
        for args in [
            &["--url", "https://localhost:1/"] as &[&str],
            &["--print-token"],
        ] {
            let output = process::output("client", &fake.endpoint(), args).await;
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains(expected), "{said}");
            assert_eq!(said.matches(expected).count(), 1, "{said}");
        }
    }
}

/// An agent that waits for its server sends the reason later than we wait for an agent that hangs.
#[tokio::test]
async fn late_reason_of_the_agent_is_reported_w166() {
    let stack = Stack::new().await;
    let fake = Fake::new(&Genuine::of(&stack).await);
    let text = "could not fetch: connection refused";
    *fake.script.tokens.lock().unwrap() = vec![Err(Status::internal(text))];
    fake.hold_tokens(true);
    let audiences = vec![AUDIENCE.to_owned()];
    let source = TokenSource::new(fake.workload_api(PATIENCE), audiences, None);
    // The second call is on another connection, because the agent may have been replaced.
    fake.wait_for_calls(Call::Token, 2).await;
    fake.wait_for_connections(|open| *open == 2).await;
    fake.hold_tokens(false);
    let error = source.token().await.unwrap_err().to_string();
    assert!(error.contains(text), "{error}");
}

#[tokio::test]
async fn token_is_printed_only_on_request_w180() {
    let stack = Stack::new().await;
    let fake = Fake::new(&Genuine::of(&stack).await);
    let svid = stack.token(|_| ());
    *fake.script.tokens.lock().unwrap() = vec![token(svid.clone())];
    for (args, printed) in [
        (&["--print-token"] as &[&str], true),
        (&["--url", "https://localhost:1/"], false),
        (&["--url", "https://localhost:1/", "-i"], false),
    ] {
        let output = process::command(&binary("client"), &fake.endpoint(), args)
            .env("RUST_LOG", "trace")
            .output()
            .await
            .unwrap();
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(stdout.contains(&svid), printed, "{args:?}");
        for part in svid.split('.') {
            assert!(!stderr.contains(part), "{args:?}: {stderr}");
        }
    }
}
