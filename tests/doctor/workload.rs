use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::json;

use harness::{
    CLIENT_ID, SERVER_ID, Stack,
    fake_workload_api::{self, Fake, Genuine},
    process::free_ports,
    users::Users,
};

use crate::{diagnosis::Diagnosis, path::Path};

#[tokio::test]
async fn missing_socket_leaves_the_steps_that_do_not_need_it() {
    let path = Path::new().await;
    let args = ["--workload-api", "unix:///does/not/exist"];
    let diagnosis = path.diagnose(&args).await;
    assert_eq!(
        diagnosis.with_port(path.port),
        "\
failed     socket        unix:///does/not/exist
                         cause: no such socket; start the agent
                         remedy: start the agent, or name its socket with --workload-api or SPIFFE_ENDPOINT_SOCKET
not tried  permission    it needs the socket
not tried  identity      it needs the Workload API
not tried  svid          it needs the Workload API
not tried  x509-bundles  it needs the Workload API
not tried  jwt-bundles   it needs the Workload API
not tried  token         it needs the Workload API
ok         name          https://127.0.0.1:PORT/ is 127.0.0.1:PORT
ok         tcp           127.0.0.1:PORT accepts
not tried  tls           it needs the Workload API
not tried  answer        it needs a token
1 failed, 0 with a warning; the first is socket (exit status 10)
"
    );
    assert_eq!(diagnosis.status, 10);
}

#[tokio::test]
async fn socket_that_the_user_may_not_reach_is_named_with_its_mode() {
    let Some(users) = Users::new(&[("client", "games")]).await else {
        return;
    };
    let socket = users.stack.agent.socket().to_owned();
    let directory = socket.parent().unwrap();
    let endpoint = users.stack.agent.endpoint();
    let diagnose = async || {
        let args = ["--doctor", "--url", "https://127.0.0.1:1/"];
        let output = users.command("client", "games", &args).output();
        Diagnosis::read("client", &endpoint, &output.await.unwrap())
    };
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).unwrap();
    let diagnosis = diagnose().await;
    diagnosis.failed(
        10,
        "permission",
        "permission denied on the socket for uid 5, user games",
    );
    let step = diagnosis.step("permission");
    assert!(
        step.contains("agent.sock (uid 0, gid 0, mode 0600)"),
        "{step}"
    );
    assert!(diagnosis.step("socket").starts_with("ok "));

    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
    let diagnosis = diagnose().await;
    diagnosis.failed(10, "permission", "permission denied");
    let step = diagnosis.step("permission");
    assert!(step.contains("may not search the directory"), "{step}");
    assert!(step.contains("mode 0700"), "{step}");
    assert!(diagnosis.step("socket").starts_with("not tried "));
}

#[tokio::test]
async fn process_without_an_entry_is_told_how_to_register() {
    let stack = Stack::with(SERVER_ID, |config| {
        config
            .entries
            .retain(|entry| entry.id().to_string() != CLIENT_ID);
    })
    .await;
    let endpoint = stack.agent.endpoint();
    let [port] = free_ports();
    let url = format!("https://127.0.0.1:{port}/");
    let diagnosis = Diagnosis::of("client", &endpoint, &["--url", &url]).await;
    diagnosis.failed(
        11,
        "identity",
        "no registration entry matches this process (uid ",
    );
    assert!(diagnosis.step("identity").contains("executable /bin/it"));
    assert!(
        diagnosis
            .step("identity")
            .contains("spire-server entry create")
    );
    assert!(diagnosis.step("token").starts_with("not tried "));
}

#[tokio::test]
async fn withdrawn_identity_and_silent_agent_fail_the_identity() {
    let path = Path::new().await;
    let agent = &path.stack.agent;
    agent.withdraw(&CLIENT_ID.parse().unwrap());
    let diagnosis = path.diagnose(&[]).await;
    diagnosis.failed(11, "identity", "no registration entry matches this process");
    path.fails_as(&diagnosis, &[]).await;
    agent.restore(&CLIENT_ID.parse().unwrap());
    agent.stall();
    let diagnosis = path.diagnose(&["-m", "1s"]).await;
    diagnosis.failed(11, "identity", "connected, but it did not answer in time");
    agent.unstall();
}

#[tokio::test]
async fn identity_that_is_not_the_wanted_one_is_named_with_those_that_are_issued() {
    let path = Path::new().await;
    let args = ["--spiffe-id", "spiffe://example.org/else"];
    let diagnosis = path.diagnose(&args).await;
    let cause =
        "it does not issue spiffe://example.org/else; it issues spiffe://example.org/client";
    diagnosis.failed(11, "identity", cause);
}

#[tokio::test]
async fn several_identities_without_a_choice_are_a_warning() {
    let stack = Stack::with(SERVER_ID, |config| {
        let client = config
            .entries
            .iter()
            .find(|entry| entry.id().to_string() == CLIENT_ID);
        let selector = client.unwrap().selectors()[0].clone();
        let other = format!("spiffe://example.org/other={selector}");
        config.entries.push(other.parse().unwrap());
    })
    .await;
    let server = stack.server(&[]).await;
    let url = format!("https://127.0.0.1:{}/", server.listening().await);
    let endpoint = stack.agent.endpoint();
    let diagnosis = Diagnosis::of("client", &endpoint, &["--url", &url]).await;
    assert_eq!(diagnosis.status, 0, "{}", diagnosis.text);
    let step = diagnosis.step("identity");
    assert!(step.starts_with("warning "), "{step}");
    assert!(step.contains("2 identities are issued"), "{step}");
    assert!(
        diagnosis
            .step("answer")
            .contains("200 OK from the peer itself")
    );
}

#[tokio::test]
async fn expired_token_of_the_agent_gives_status_13() {
    let stack = Stack::new().await;
    let fake = Fake::new(&Genuine::of(&stack).await);
    let expired = stack.token(|claims| claims.payload["exp"] = json!(1_000_000_000));
    *fake.script.tokens.lock().unwrap() = vec![fake_workload_api::token(expired)];
    let args = ["--url", "https://127.0.0.1:1/", "-m", "2s"];
    let diagnosis = Diagnosis::of("client", &fake.endpoint(), &args).await;
    diagnosis.failed(13, "token", "it issued a JWT-SVID that has expired");
}
