use std::time::Duration;

use harness::{CLIENT_ID, SERVER_ID, Stack, admin::condition, https::get, process::free_ports};
use http::Method;
use nix::sys::signal::Signal;
use spiffe::SpiffeId;
use tokio::net::TcpListener;

/// The life of an SVID, whose end a test can wait for.
const SHORT: Duration = Duration::from_secs(8);

#[tokio::test]
async fn process_without_an_agent_lives_and_says_what_it_waits_for_and_since_when() {
    let stack = Stack::new().await;
    let flags = ["--workload-api", "unix:/no/such/agent.sock"];
    for binary in ["server", "proxy"] {
        let (_process, admin) = stack.spawn_with_admin(binary, &flags).await;
        assert_eq!(admin.get("/live").await.status, 200);
        let (status, identity) = admin.becomes("not ready", "workload_api", "lost").await;
        assert_eq!(status, 503);
        assert!(identity["since"].is_string(), "{identity}");
        let (_, report) = admin.ready().await;
        let serving = condition(&report, "serving").unwrap();
        assert_eq!(serving["reason"], "starting");
        let identity = loop {
            let (_, report) = admin.ready().await;
            let identity = condition(&report, "identity").unwrap();
            if identity["reason"].as_str().unwrap().contains("socket") {
                break identity;
            }
        };
        assert_eq!(identity["state"], "lost");
        let reason = identity["reason"].as_str().unwrap();
        assert!(reason.contains("waiting for the Workload API"), "{reason}");
        assert!(
            reason.contains("no such socket; start the agent"),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn process_with_an_identity_is_ready_and_names_every_condition() {
    let stack = Stack::new().await;
    let (_server, admin) = stack.server_with_admin(&[]).await;
    let (status, identity) = admin.becomes("ready", "identity", "met").await;
    assert_eq!(
        (status, identity["reason"].as_str()),
        (200, Some(SERVER_ID))
    );
    let (_, report) = admin.ready().await;
    let conditions = report["conditions"].as_array().unwrap();
    let names: Vec<_> = conditions
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "serving",
            "identity",
            "workload_api",
            "x509_svid",
            "trust_bundles",
            "jwt_bundles/example.org"
        ]
    );
    let svid = condition(&report, "x509_svid").unwrap();
    let left = svid["seconds_left"].as_u64().unwrap();
    assert!((3000..=3600).contains(&left), "{svid}");
    assert!(
        svid["reason"].as_str().unwrap().starts_with("serial "),
        "{svid}"
    );

    let text = admin.get("/ready").await;
    assert_eq!(text.status, 200);
    assert_eq!(text.headers["content-type"], "text/plain; charset=utf-8");
    assert!(
        text.body.starts_with("ready\nmet       serving"),
        "{}",
        text.body
    );
    let head = admin.ask(admin.request(Method::HEAD, "/ready", "")).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn withdrawn_identity_is_503_until_it_is_restored() {
    let stack = Stack::new().await;
    let (_server, admin) = stack.server_with_admin(&[]).await;
    let id = SpiffeId::new(SERVER_ID).unwrap();
    admin.becomes("ready", "identity", "met").await;

    stack.agent.withdraw(&id);
    let (status, identity) = admin.becomes("not ready", "identity", "lost").await;
    assert_eq!(status, 503);
    let reason = identity["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("withdrawn by the Workload API"),
        "{reason}"
    );
    for name in ["x509_svid", "trust_bundles", "jwt_bundles"] {
        admin.becomes("not ready", name, "lost").await;
    }

    stack.agent.restore(&id);
    let (status, _) = admin.becomes("ready", "identity", "met").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn outage_is_degraded_with_the_time_left_and_503_once_the_svid_has_expired() {
    let stack = Stack::with(SERVER_ID, |config| config.x509_ttl = SHORT).await;
    let (_server, admin) = stack.server_with_admin(&[]).await;
    admin.becomes("ready", "workload_api", "met").await;

    stack.agent.stop().await;
    let (status, api) = admin.becomes("degraded", "workload_api", "degraded").await;
    assert_eq!(status, 200);
    assert!(api["since"].is_string(), "{api}");
    assert!(
        api["seconds_left"].as_u64().unwrap() <= SHORT.as_secs(),
        "{api}"
    );
    let (_, identity) = admin.becomes("degraded", "identity", "degraded").await;
    assert!(identity["seconds_left"].is_u64(), "{identity}");

    let (status, svid) = admin.becomes("not ready", "x509_svid", "lost").await;
    assert_eq!(status, 503);
    assert!(
        svid["reason"].as_str().unwrap().starts_with("expired"),
        "{svid}"
    );
    admin.becomes("not ready", "workload_api", "lost").await;

    stack.agent.restart().await.unwrap();
    let (status, _) = admin.becomes("ready", "workload_api", "met").await;
    assert_eq!(status, 200);
    let page = admin.page().await.body;
    assert!(page.contains("the Workload API is back"), "{page}");
}

#[tokio::test]
async fn agent_that_says_nothing_is_degraded_before_the_svid_expires() {
    let stack = Stack::with(SERVER_ID, |config| config.x509_ttl = SHORT).await;
    let (_server, admin) = stack.server_with_admin(&[]).await;
    admin.becomes("ready", "x509_svid", "met").await;
    stack.agent.stall();
    let (status, svid) = admin.becomes("degraded", "x509_svid", "degraded").await;
    assert_eq!(status, 200);
    assert!(
        svid["seconds_left"].as_u64().unwrap() < SHORT.as_secs() / 2,
        "{svid}"
    );
    stack.agent.unstall();
    admin.becomes("ready", "x509_svid", "met").await;
}

#[tokio::test]
async fn process_that_drains_is_not_ready_and_answers_until_its_end() {
    let stack = Stack::new().await;
    let [port] = free_ports();
    let address = format!("127.0.0.1:{port}");
    let application = TcpListener::bind(&address).await.unwrap();
    let url = format!("http://{address}");
    let (mut server, admin) = stack.server_with_admin(&["--upstream", &url]).await;
    let https = stack.https(server.listening().await);
    let token = stack.bearer();
    let request = tokio::spawn(async move { https.send(get(&[("authorization", &token)])).await });
    let (forwarded, _) = application.accept().await.unwrap();

    server.signal(Signal::SIGTERM);
    let (status, serving) = admin.becomes("not ready", "serving", "lost").await;
    assert_eq!(status, 503);
    let reason = serving["reason"].as_str().unwrap();
    assert!(reason.starts_with("draining"), "{reason}");
    assert_eq!(admin.get("/live").await.status, 200);

    drop((forwarded, application));
    assert_eq!(request.await.unwrap().status, 502);
    assert!(server.ended().await.success());
}

#[tokio::test]
async fn no_answer_has_a_token_or_a_key() {
    let stack = Stack::new().await;
    let (server, admin) = stack.server_with_admin(&[]).await;
    let https = stack.https(server.listening().await);
    let token = stack.token(|_| ());
    let bearer = format!("Bearer {token}");
    assert_eq!(
        https.send(get(&[("authorization", &bearer)])).await.status,
        200
    );
    let (_, signature) = token.rsplit_once('.').unwrap();
    for path in ["/", "/live", "/metrics", "/ready", "/log", "/no-such-path"] {
        let answer = admin.get(path).await;
        assert!(!answer.body.contains(signature), "{path}: {}", answer.body);
        assert!(!answer.body.contains("PRIVATE KEY"), "{path}");
        assert!(!answer.body.contains(CLIENT_ID), "{path}: {}", answer.body);
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    }
}
