use std::{fs, net::TcpListener};

use serde_json::json;

use harness::{
    CLIENT_ID, SERVER_ID, Stack,
    app::App,
    fake_workload_api::{Fake, Genuine},
    process::{self, Process, free_ports},
    users::Users,
};

use crate::diagnosis::{self, Diagnosis, GOOD_IDENTITY, expected};

async fn diagnose(stack: &Stack, args: &[&str]) -> Diagnosis {
    let args = [&["--listen", "127.0.0.1:0"], args].concat();
    Diagnosis::of("server", &stack.agent.endpoint(), &args).await
}

#[tokio::test]
async fn good_server_is_ok_in_each_step() {
    let stack = Stack::new().await;
    let diagnosis = diagnose(&stack, &["--allow", CLIENT_ID]).await;
    let open_files = diagnosis.step("open-files");
    assert_eq!(
        diagnosis.text.replace(&open_files, "OPEN-FILES"),
        expected(&[
            "\
ok         listen        --listen 127.0.0.1:0 can be bound
OPEN-FILES
ok         policy        allowed: spiffe://example.org/client
",
            GOOD_IDENTITY,
            "\
ok         jwt-bundles   example.org (1 key)
no step failed, 0 with a warning
"
        ])
    );
    assert_eq!(diagnosis.status, 0);
}

#[tokio::test]
async fn address_of_a_process_that_does_not_share_it_gives_status_19() {
    let stack = Stack::new().await;
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let endpoint = stack.agent.endpoint();
    let args = ["--listen", &address];
    let diagnosis = Diagnosis::of("server", &endpoint, &args).await;
    diagnosis.failed(19, "listen", "the port is in use");
    let uid = nix::unistd::geteuid();
    let owner = format!("where a process of uid {uid} listens");
    assert!(
        diagnosis.step("listen").contains(&owner),
        "{}",
        diagnosis.text
    );
    // The server itself fails with the same words.
    let output = process::output("server", &endpoint, &args).await;
    let log = String::from_utf8(output.stderr).unwrap();
    let (_, reason) = log.trim().split_once("ERROR ").unwrap();
    assert!(
        diagnosis.text.contains(reason),
        "{reason}\n{}",
        diagnosis.text
    );
}

#[tokio::test]
async fn admin_address_is_tried_too() {
    let stack = Stack::new().await;
    let diagnosis = diagnose(&stack, &["--admin", "127.0.0.1:0"]).await;
    assert!(diagnosis.step("admin").starts_with("ok "));
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let diagnosis = diagnose(&stack, &["--admin", &address]).await;
    diagnosis.failed(19, "admin", "choose another port with --admin");
}

#[tokio::test]
async fn address_of_another_user_gives_status_19() {
    let Some(users) = Users::new(&[("server", "daemon"), ("other", "games")]).await else {
        return;
    };
    let server = Process::spawn(users.command("server", "daemon", &["--listen", "127.0.0.1:0"]));
    let address = format!("127.0.0.1:{}", server.listening().await);
    let args = ["--doctor", "--listen", &address, "--reuse-port"];
    let output = users.command("server", "games", &args).output().await;
    let endpoint = users.stack.agent.endpoint();
    let diagnosis = Diagnosis::read("server", &endpoint, &output.unwrap());
    diagnosis.failed(19, "listen", "in use by another user's process");
    assert!(
        diagnosis
            .step("listen")
            .contains("where a process of uid 1 listens")
    );
}

#[tokio::test]
async fn running_server_is_a_warning_and_serves_during_its_diagnosis() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let port = server.listening().await;
    let https = stack.https(port);
    let address = format!("127.0.0.1:{port}");
    let (endpoint, token) = (stack.agent.endpoint(), stack.token(|_| ()));
    for (args, verdict) in [
        (&["--listen", &address] as &[&str], "warning "),
        (&["--listen", &address, "--reuse-port"], "ok "),
    ] {
        let diagnosing = Diagnosis::of("server", &endpoint, args);
        let mut diagnosing = std::pin::pin!(diagnosing);
        let diagnosis = loop {
            tokio::select! {
                diagnosis = &mut diagnosing => break diagnosis,
                status = https.status(&token) => assert_eq!(status, 200),
            }
        };
        assert_eq!(diagnosis.status, 0, "{}", diagnosis.text);
        let step = diagnosis.step("listen");
        assert!(step.starts_with(verdict), "{step}");
    }
}

#[tokio::test]
async fn policy_with_a_mistake_gives_status_20_and_one_that_is_observed_a_warning() {
    let stack = Stack::new().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    fs::write(path, "[[rule]]\npath = [\"/\"]\n").unwrap();
    let diagnosis = diagnose(&stack, &["--policy", path]).await;
    diagnosis.failed(20, "policy", "line 2, column 1");
    assert!(diagnosis.step("jwt-bundles").starts_with("ok "));
    fs::write(
        path,
        "[[rule]]\npaths = [\"/\"]\ncallers = [\"spiffe://partner.example/*\"]\n",
    )
    .unwrap();
    let diagnosis = diagnose(&stack, &["--policy", path, "--enforce", "observe"]).await;
    assert!(diagnosis.step("policy").starts_with("warning "));
    diagnosis.failed(
        12,
        "jwt-bundles",
        "no bundle for trust domain partner.example",
    );
}

#[tokio::test]
async fn svid_that_callers_would_refuse_gives_status_11() {
    let stack = Stack::new().await;
    let other = Stack::new().await;
    let mut genuine = Genuine::of(&stack).await;
    // The agent's bundle is that of another CA.
    let bundle = Genuine::of(&other).await.x509.svids[0].bundle.clone();
    genuine.x509.svids[0].bundle = bundle;
    let fake = Fake::new(&genuine);
    let args = ["--listen", "127.0.0.1:0"];
    let diagnosis = Diagnosis::of("server", &fake.endpoint(), &args).await;
    diagnosis.failed(11, "fit", "invalid peer certificate: ");
}

#[tokio::test]
async fn withdrawn_identity_gives_status_11() {
    let stack = Stack::new().await;
    stack.agent.withdraw(&SERVER_ID.parse().unwrap());
    let diagnosis = diagnose(&stack, &[]).await;
    diagnosis.failed(11, "identity", "no registration entry matches this process");
    assert!(diagnosis.step("fit").starts_with("not tried "));
}

#[tokio::test]
async fn application_is_tried_with_and_without_tls() {
    let stack = Stack::new().await;
    let app = App::start("http").await;
    let diagnosis = diagnose(&stack, &["--upstream", &app.url]).await;
    assert_eq!(diagnosis.status, 0, "{}", diagnosis.text);
    assert!(
        diagnosis
            .step("answer")
            .contains("GET / without a token: 200 OK")
    );
    let [port] = free_ports();
    let closed = format!("http://127.0.0.1:{port}");
    let diagnosis = diagnose(&stack, &["--upstream", &closed]).await;
    diagnosis.failed(15, "tcp", "Connection refused");
    let server = stack.server(&[]).await;
    let url = format!("https://127.0.0.1:{}", server.listening().await);
    let other = "spiffe://example.org/other";
    let args = ["--upstream", &url, "--upstream-id", other];
    let diagnosis = diagnose(&stack, &args).await;
    diagnosis.failed(16, "tls", "presented spiffe://example.org/server");
}

#[tokio::test]
async fn low_limit_of_open_files_is_a_warning() {
    let stack = Stack::new().await;
    let diagnosis = diagnose(&stack, &["--max-connections", "1000000000"]).await;
    assert_eq!(diagnosis.status, 0, "{}", diagnosis.text);
    let step = diagnosis.step("open-files");
    assert!(step.starts_with("warning "), "{step}");
    assert!(step.contains("--max-connections 1000000000"), "{step}");
}

#[tokio::test]
async fn json_names_the_binary_and_the_first_failed_step() {
    let stack = Stack::new().await;
    let endpoint = stack.agent.endpoint();
    let args = ["--listen", "192.0.2.1:0"];
    let json = diagnosis::json("server", &endpoint, &args).await;
    assert_eq!(json["exit_status"], 19);
    assert_eq!(json["first_failed"], "listen");
    assert_eq!(json["steps"][0]["kind"], json!("listen"));
}
