use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::json;

use harness::{
    SERVER_ID, Stack,
    process::{self, free_ports},
    upstream,
};

use crate::{
    diagnosis::{self, Diagnosis, expected},
    path::Path,
};

const GOOD_UNTIL_TOKEN: &str = "\
ok         socket        unix:///agent.sock accepts
ok         permission    this user may connect; the agent runs as uid UID
ok         identity      spiffe://example.org/client
ok         svid          X.509-SVID SERIAL until TIME (in SPAN)
ok         x509-bundles  example.org (1 authority)
ok         jwt-bundles   example.org (1 key)
";

const GOOD_TOKEN: &str = "\
ok         token         JWT-SVID of spiffe://example.org/client for spiffe://example.org/server, until TIME (in SPAN)
";

const GOOD_PEER: &str = "\
ok         name          https://127.0.0.1:PORT/ is 127.0.0.1:PORT
ok         tcp           127.0.0.1:PORT accepts
ok         tls           the peer is spiffe://example.org/server; TLS 1.3, h2, until TIME (in SPAN)
";

#[tokio::test]
async fn good_path_is_ok_in_each_step() {
    let path = Path::new().await;
    let diagnosis = path.diagnose(&[]).await;
    assert_eq!(
        diagnosis.with_port(path.port),
        expected(&[
            GOOD_UNTIL_TOKEN,
            GOOD_TOKEN,
            GOOD_PEER,
            "\
ok         answer        GET /: 200 OK from behind the peer, 10 bytes
ok         clock         the answer's Date is that of this machine
no step failed, 0 with a warning
"
        ])
    );
    assert_eq!(diagnosis.status, 0);
}

#[tokio::test]
async fn audience_that_the_server_refuses_gives_status_17() {
    let path = Path::new().await;
    let diagnosis = path.diagnose(&["spiffe://example.org/other"]).await;
    assert_eq!(
        diagnosis.with_port(path.port),
        expected(&[
            GOOD_UNTIL_TOKEN,
            &GOOD_TOKEN.replace("/server", "/other"),
            GOOD_PEER,
            "\
failed     answer        GET /: 401 Unauthorized from behind the peer
                         cause: the server refuses the token, which is for spiffe://example.org/other; a server takes its own SPIFFE ID unless --audience says otherwise, and spiffe://example.org/server is not among these
                         remedy: compare AUDIENCE with the server's --audience and the clocks of both; the server's log has the reason (Invalid token: …)
ok         clock         the answer's Date is that of this machine
1 failed, 0 with a warning; the first is answer (exit status 17)
"
        ])
    );
    assert_eq!(diagnosis.status, 17);
    path.fails_as(&diagnosis, &["spiffe://example.org/other"])
        .await;
}

#[tokio::test]
async fn token_for_the_proxy_is_refused_with_a_hint_about_the_server_behind_it() {
    let stack = Stack::new().await;
    let audience = ["--audience", "https://api.example.org"];
    let server = stack.server(&audience).await;
    let proxy = stack.proxy(server.listening().await, &[]).await;
    let url = format!("https://127.0.0.1:{}/", proxy.listening().await);
    let endpoint = stack.agent.endpoint();
    let diagnosis = Diagnosis::of("client", &endpoint, &["--url", &url]).await;
    let hint = "spiffe://example.org/server is the peer, and the server behind it takes its own";
    diagnosis.failed(17, "answer", hint);
}

#[tokio::test]
async fn caller_that_the_server_does_not_allow_gives_status_17() {
    let stack = Stack::new().await;
    let server = stack
        .server(&["--allow", "spiffe://example.org/else"])
        .await;
    let url = format!("https://127.0.0.1:{}/", server.listening().await);
    let endpoint = stack.agent.endpoint();
    let diagnosis = Diagnosis::of("client", &endpoint, &["--url", &url]).await;
    diagnosis.failed(
        17,
        "answer",
        "the server knows spiffe://example.org/client, and does not allow it",
    );
}

#[tokio::test]
async fn name_without_an_address_gives_status_14() {
    let path = Path::new().await;
    let args = ["--doctor", "--url", "https://no-such-host.invalid:8443/"];
    let endpoint = path.stack.agent.endpoint();
    let output = process::output("client", &endpoint, &args).await;
    let diagnosis = Diagnosis::read("client", &endpoint, &output);
    diagnosis.failed(14, "name", "no address for its name: ");
    assert!(diagnosis.step("tcp").starts_with("not tried "));
}

#[tokio::test]
async fn closed_port_gives_status_15() {
    let mut path = Path::new().await;
    [path.port] = free_ports();
    let diagnosis = path.diagnose(&[]).await;
    assert_eq!(
        diagnosis.with_port(path.port),
        expected(&[
            GOOD_UNTIL_TOKEN,
            GOOD_TOKEN,
            "\
ok         name          https://127.0.0.1:PORT/ is 127.0.0.1:PORT
failed     tcp           connect to 127.0.0.1:PORT
                         cause: cannot connect to https://127.0.0.1:PORT/ as spiffe://example.org/server: Connection refused (os error 111)
                         remedy: start the upstream, open the port in the firewall between, or correct --url
not tried  tls           it needs a connection
not tried  answer        it needs a verified peer
1 failed, 0 with a warning; the first is tcp (exit status 15)
"
        ])
    );
    assert_eq!(diagnosis.status, 15);
    path.fails_as(&diagnosis, &[]).await;
}

#[tokio::test]
async fn peer_with_another_spiffe_id_gives_status_16_and_gets_no_token() {
    let path = Path::new().await;
    let args = ["--server-id", "spiffe://example.org/else", SERVER_ID];
    let diagnosis = path.diagnose(&args).await;
    assert_eq!(
        diagnosis.with_port(path.port),
        expected(&[
            GOOD_UNTIL_TOKEN,
            GOOD_TOKEN,
            "\
ok         name          https://127.0.0.1:PORT/ is 127.0.0.1:PORT
ok         tcp           127.0.0.1:PORT accepts
failed     tls           verify 127.0.0.1:PORT as spiffe://example.org/else
                         cause: https://127.0.0.1:PORT/ is not who it should be: expected spiffe://example.org/else, presented spiffe://example.org/server
                         remedy: if spiffe://example.org/server is the right one, say so with --server-id; otherwise --url leads to another server
not tried  answer        it needs a verified peer
1 failed, 0 with a warning; the first is tls (exit status 16)
"
        ])
    );
    assert_eq!(diagnosis.status, 16);
    path.fails_as(&diagnosis, &args).await;
    let log = path.server.log().join("\n");
    assert!(!log.contains("Request received"), "{log}");
}

#[tokio::test]
async fn proxy_without_an_upstream_gives_status_18() {
    let mut path = Path::new().await;
    path.server.signal(nix::sys::signal::Signal::SIGTERM);
    path.server.ended().await;
    let diagnosis = path.diagnose(&[]).await;
    assert_eq!(
        diagnosis.with_port(path.port),
        expected(&[
            GOOD_UNTIL_TOKEN,
            GOOD_TOKEN,
            GOOD_PEER,
            "\
failed     answer        GET /: 502 Bad Gateway from the peer itself
                         cause: a proxy could not reach its upstream, or could not verify it
                         remedy: run proxy --doctor with that proxy's flags; its log has the reason
ok         clock         the answer's Date is that of this machine
1 failed, 0 with a warning; the first is answer (exit status 18)
"
        ])
    );
    assert_eq!(diagnosis.status, 18);
    path.fails_as(&diagnosis, &[]).await;
}

#[tokio::test]
async fn clock_of_the_server_that_differs_is_a_warning() {
    let stack = Stack::new().await;
    let port = upstream::answering(&stack, &["h2"], async |_| {
        let mut response = serve::body::status(http::StatusCode::OK);
        let date = "Thu, 01 Jan 2026 00:00:00 GMT".parse().unwrap();
        response.headers_mut().insert("date", date);
        response
    })
    .await;
    let url = format!("https://127.0.0.1:{port}/");
    let endpoint = stack.agent.endpoint();
    let diagnosis = Diagnosis::of("client", &endpoint, &["--url", &url]).await;
    assert_eq!(diagnosis.status, 0, "{}", diagnosis.text);
    let step = diagnosis.step("clock");
    assert!(step.starts_with("warning "), "{step}");
}

#[tokio::test]
async fn json_has_the_verdicts_and_the_exit_status() {
    let path = Path::new().await;
    let url = path.url();
    let endpoint = path.stack.agent.endpoint();
    let json = diagnosis::json("client", &endpoint, &["--url", &url]).await;
    assert_eq!(json["verdict"], "ok");
    assert_eq!(json["exit_status"], 0);
    assert_eq!(json["first_failed"], json!(null));
    let args = ["--url", &url, "spiffe://example.org/other"];
    let json = diagnosis::json("client", &endpoint, &args).await;
    assert_eq!(json["verdict"], "failed");
    assert_eq!(json["exit_status"], 17);
    assert_eq!(json["first_failed"], "answer");
    let steps = json["steps"].as_array().unwrap();
    let answer = steps.iter().find(|step| step["step"] == "answer").unwrap();
    assert_eq!(answer["kind"], "refused");
}

#[tokio::test]
async fn each_route_of_a_listening_client_is_tried() {
    let path = Path::new().await;
    let route =
        |host: &str, id: &str| format!("{host}=https://127.0.0.1:{};server-id={id}", path.port);
    let (good, bad) = (
        route("good", SERVER_ID),
        route("bad", "spiffe://example.org/else"),
    );
    let listen = ["--listen", "127.0.0.1:0", "--route", &good, "--route", &bad];
    let endpoint = path.stack.agent.endpoint();
    let diagnosis = Diagnosis::of("client", &endpoint, &listen).await;
    diagnosis.failed(16, "tls", "[bad] verify");
}

#[tokio::test]
async fn peer_with_a_web_certificate_is_verified_by_its_name() {
    let path = Path::new().await;
    let ca = tempfile::NamedTempFile::new().unwrap();
    fs::write(ca.path(), path.stack.agent.x509_bundle_pem()).unwrap();
    let ca = ca.path().to_str().unwrap();
    let args = ["--server-name", "localhost", "--ca", ca, SERVER_ID];
    let diagnosis = path.diagnose(&args).await;
    assert_eq!(diagnosis.status, 0, "{}", diagnosis.text);
    let args = ["--server-name", "elsewhere.example", "--ca", ca, SERVER_ID];
    let diagnosis = path.diagnose(&args).await;
    diagnosis.failed(16, "tls", "not valid for name");
    let args = [
        "--server-name",
        "localhost",
        "--ca",
        "/does/not/exist",
        SERVER_ID,
    ];
    let diagnosis = path.diagnose(&args).await;
    diagnosis.failed(20, "ca", "--ca /does/not/exist: No such file");
}

#[tokio::test]
async fn token_file_is_checked_and_not_written() {
    let path = Path::new().await;
    let directory = tempfile::tempdir().unwrap();
    let endpoint = path.stack.agent.endpoint();
    let file = directory.path().join("token");
    let args = ["--token-file", file.to_str().unwrap(), SERVER_ID];
    let diagnosis = Diagnosis::of("client", &endpoint, &args).await;
    assert_eq!(diagnosis.status, 0, "{}", diagnosis.text);
    assert!(diagnosis.step("token-file").contains("can be kept"));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let diagnosis = Diagnosis::of("client", &endpoint, &args).await;
    diagnosis.failed(20, "token-file", "other users may write to its directory");
}
