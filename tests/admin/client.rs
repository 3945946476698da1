use std::time::Duration;

use harness::{
    CLIENT_ID, SERVER_ID, Stack,
    admin::{ADMIN, Admin},
    fake_workload_api::{self, Fake, Genuine},
    https::Https,
    process, raw,
};
use spiffe::SpiffeId;

#[tokio::test]
async fn client_that_listens_is_ready_with_bundles_and_without_an_x509_svid() {
    let stack = Stack::new().await;
    let (client, admin) = stack
        .spawn_with_admin("client", &["--listen", "127.0.0.1:0"])
        .await;
    client.listening().await;
    let (status, identity) = admin.becomes("ready", "identity", "met").await;
    assert_eq!(status, 200);
    assert_eq!(identity["reason"], "bundles only, and no X.509-SVID");
    admin.becomes("ready", "trust_bundles", "met").await;
    let (_, upstream) = admin.becomes("ready", "upstream", "met").await;
    assert!(upstream["until"].is_null(), "{upstream}");
    let (_, token) = admin.becomes("ready", "token", "met").await;
    assert_eq!(token["reason"], format!("of {CLIENT_ID}"));
    assert!(token["seconds_left"].as_u64().unwrap() <= 300, "{token}");
}

#[tokio::test]
async fn each_route_has_its_token_and_its_upstream_and_a_withdrawal_is_503_until_it_ends() {
    let stack = Stack::new().await;
    let route = |host, port, id| format!("{host}=https://127.0.0.1:{port};server-id={id}");
    let routes = [
        route("a.internal", 1, "spiffe://example.org/a"),
        route("b.internal", 2, "spiffe://example.org/b"),
    ];
    let flags = [
        "--listen",
        "127.0.0.1:0",
        "--route",
        &routes[0],
        "--route",
        &routes[1],
    ];
    let (_client, admin) = stack.spawn_with_admin("client", &flags).await;
    let names = ["token/a.internal", "token/b.internal"];
    for name in names {
        admin.becomes("ready", name, "met").await;
    }
    let endpoint = "upstream/b.internal/https://127.0.0.1:2/";
    admin.becomes("ready", endpoint, "met").await;

    let id = SpiffeId::new(CLIENT_ID).unwrap();
    stack.agent.withdraw(&id);
    let (status, _) = admin.becomes("not ready", "identity", "lost").await;
    assert_eq!(status, 503);
    stack.agent.restore(&id);
    for name in names {
        let (status, _) = admin.becomes("ready", name, "met").await;
        assert_eq!(status, 200);
    }
}

#[tokio::test]
async fn token_that_is_not_renewed_is_degraded_and_then_lost_with_the_reason() {
    let life = |config: &mut dev_agent::Config| config.jwt_ttl = Duration::from_secs(8);
    let stack = Stack::with(SERVER_ID, life).await;
    let flags = ["--listen", "127.0.0.1:0", "--url", "https://127.0.0.1:1"];
    let (_client, admin) = stack.spawn_with_admin("client", &flags).await;
    admin.becomes("ready", "token", "met").await;
    stack.agent.stop().await;
    let (status, token) = admin.becomes("degraded", "token", "degraded").await;
    assert_eq!(status, 200);
    let reason = token["reason"].as_str().unwrap();
    assert!(reason.starts_with("cannot be renewed: "), "{reason}");
    let (status, token) = admin.becomes("not ready", "token", "lost").await;
    assert_eq!(status, 503);
    let reason = token["reason"].as_str().unwrap();
    assert!(reason.contains("socket"), "{reason}");
    stack.agent.restart().await.unwrap();
    admin.becomes("ready", "token", "met").await;
}

#[tokio::test]
async fn client_that_keeps_a_token_is_ready_while_the_file_has_one() {
    let stack = Stack::new().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    let (_client, admin) = stack
        .spawn_with_admin("client", &["--token-file", file.to_str().unwrap()])
        .await;
    let (status, condition) = admin.becomes("ready", "token_file", "met").await;
    assert_eq!(status, 200);
    assert!(
        condition["seconds_left"].as_u64().unwrap() <= 300,
        "{condition}"
    );

    let id = SpiffeId::new(CLIENT_ID).unwrap();
    stack.agent.withdraw(&id);
    let (status, _) = admin.becomes("not ready", "token_file", "lost").await;
    assert_eq!(status, 503);
    assert!(!file.exists());
    stack.agent.restore(&id);
    admin.becomes("ready", "token_file", "met").await;
}

#[tokio::test]
async fn token_that_a_server_refuses_is_degraded_until_another_one_comes() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let fake = Fake::new(&Genuine::of(&stack).await);
    let token = |audience: &str| {
        let claims = stack.agent.jwt_claims(SERVER_ID, &[audience]);
        fake_workload_api::token(stack.agent.mint_jwt(&claims))
    };
    // The agent's key signs the token. Later the server has a bundle without this key.
    fake.script.tokens.lock().unwrap().push(token(SERVER_ID));
    let url = format!("https://localhost:{}", server.listening().await);
    let flags = ["--listen", "127.0.0.1:0", "--url", &url];
    let flags = [&ADMIN[..], &flags].concat();
    let client = process::spawn("client", &fake.endpoint(), &flags);
    let admin = Admin::of(&client).await;
    admin.becomes("ready", "token", "met").await;

    stack.agent.rotate_jwt_key();
    stack.agent.drop_old_jwt_key();
    server.logged("identity updated").await;
    fake.hold_tokens(true);
    let application = Https::plain(client.listening().await);
    let asking = raw::Client::sending(&application, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut asking = asking.await;
    let (status, condition) = admin.becomes("degraded", "token", "degraded").await;
    assert_eq!(status, 200);
    let reason = condition["reason"].as_str().unwrap();
    assert_eq!(reason, "refused by a server; fetching another one");

    *fake.script.tokens.lock().unwrap() = vec![token(SERVER_ID)];
    fake.hold_tokens(false);
    assert_eq!(asking.answer().await.unwrap().status(), 200);
    admin.becomes("ready", "token", "met").await;
}

#[tokio::test]
async fn token_file_that_cannot_be_replaced_is_degraded_and_then_lost_with_its_token() {
    let life = |config: &mut dev_agent::Config| config.jwt_ttl = Duration::from_secs(6);
    let stack = Stack::with(SERVER_ID, life).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    let (client, admin) = stack
        .spawn_with_admin("client", &["--token-file", file.to_str().unwrap()])
        .await;
    admin.becomes("ready", "token_file", "met").await;
    directory.close().unwrap();
    let (status, condition) = admin.becomes("degraded", "token_file", "degraded").await;
    assert_eq!(status, 200);
    let reason = condition["reason"].as_str().unwrap();
    assert_eq!(
        reason,
        "the file has an older token, and no newer one is written"
    );
    client.logged("trying again every").await;
    let (status, _) = admin.becomes("not ready", "token_file", "lost").await;
    assert_eq!(status, 503);
}

#[tokio::test]
async fn client_that_repeats_has_an_admin_listener_and_one_that_ends_is_refused_one() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let url = format!("https://localhost:{}/", server.listening().await);
    let with_query = format!("{url}?key=secret");
    let flags = [&ADMIN[..], &["--url", &with_query, "--every", "1s"]].concat();
    let environment = [("CLIENT_LOG_FORMAT", "text"), ("RUST_LOG", "info")];
    let client = stack.spawn_with("client", &flags, &environment);
    let admin = Admin::of(&client).await;
    let (status, serving) = admin.becomes("ready", "serving", "met").await;
    assert_eq!(status, 200);
    assert_eq!(serving["reason"], format!("making requests to {url}"));

    let output = process::output("client", &stack.agent.endpoint(), &ADMIN).await;
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("use it with --listen, --token-file"),
        "{errors}"
    );
}
