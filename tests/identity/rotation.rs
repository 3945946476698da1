use http_body_util::BodyExt;
use spiffe::SpiffeId;

use harness::{
    CLIENT_ID, SERVER_ID, Stack,
    https::get,
    process::Process,
    wait::{until, until_some},
};

async fn server_and_proxy(stack: &Stack) -> (Process, Process, u16) {
    let server = stack.server(&[]).await;
    let proxy = stack.proxy(server.listening().await, &[]).await;
    let port = proxy.listening().await;
    (server, proxy, port)
}

#[tokio::test]
async fn new_svid_is_presented_on_the_next_handshake_p179() {
    let stack = Stack::new().await;
    let (server, _proxy, port) = server_and_proxy(&stack).await;
    for port in [server.listening().await, port] {
        let old = stack.https(port).presented().await;
        stack.agent.rotate_x509();
        until(async || stack.https(port).presented().await != old).await;
    }
    assert_eq!(stack.https(port).status(&stack.token(|_| ())).await, 200);
}

#[tokio::test]
async fn new_ca_is_trusted_and_an_old_one_no_longer() {
    let stack = Stack::new().await;
    let (_server, _proxy, port) = server_and_proxy(&stack).await;
    let old_ca = stack.https(port);

    stack.agent.rotate_ca();
    let new_ca = until_some(async || {
        let https = stack.https(port);
        https.try_connect(b"http/1.1").await.ok().map(|_| https)
    })
    .await;
    stack.agent.drop_old_ca();

    until(async || old_ca.try_connect(b"http/1.1").await.is_err()).await;
    let token = stack.bearer();
    assert_eq!(
        new_ca.send(get(&[("authorization", &token)])).await.status,
        200
    );
    let output = stack.client(port, &[]).await;
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn a_new_jwt_key_is_accepted_and_a_dropped_one_refused() {
    let stack = Stack::new().await;
    let (server, _proxy, port) = server_and_proxy(&stack).await;
    let old = stack.token(|_| ());
    assert_eq!(stack.https(port).status(&old).await, 200);

    stack.agent.rotate_jwt_key();
    let new = stack.token(|_| ());
    until(async || stack.https(port).status(&new).await == 200).await;
    assert_eq!(
        stack.https(port).status(&old).await,
        200,
        "both keys are published"
    );

    stack.agent.drop_old_jwt_key();
    until(async || stack.https(port).status(&old).await == 401).await;
    assert_eq!(stack.https(port).status(&new).await, 200);
    server.logged("no JWT authority").await;
}

#[tokio::test]
async fn withdrawn_server_refuses_connections_until_its_identity_is_issued_again() {
    let stack = Stack::new().await;
    let mut server = stack.server(&[]).await;
    let port = server.listening().await;
    let id = SpiffeId::new(SERVER_ID).unwrap();

    stack.agent.withdraw(&id);
    server
        .logged("identity withdrawn by the Workload API")
        .await;
    until(async || stack.https(port).try_connect(b"http/1.1").await.is_err()).await;

    stack.agent.restore(&id);
    server.logged("the identity is issued again").await;
    assert_eq!(stack.https(port).status(&stack.token(|_| ())).await, 200);
    let log = server.whole_log().await;
    assert_eq!(log.matches("withdrawn").count(), 1, "logged twice:\n{log}");
}

#[tokio::test]
async fn a_connection_kept_through_a_withdrawal_is_not_served_without_bundles() {
    let stack = Stack::new().await;
    let (server, _proxy, port) = server_and_proxy(&stack).await;
    assert_eq!(stack.https(port).status(&stack.token(|_| ())).await, 200);
    // The proxy and the server have the same identity, so that both lose it. Only kept connections
    // still reach the server.
    let https = stack.https(server.listening().await);
    let io = hyper_util::rt::TokioIo::new(https.connect(b"http/1.1").await);
    let (mut kept, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let token = stack.bearer();

    stack.agent.withdraw(&SpiffeId::new(SERVER_ID).unwrap());
    server
        .logged("identity withdrawn by the Workload API")
        .await;

    // The X.509 stream may report the withdrawal before the JWT stream. The connection drains, so that
    // its next answer is the last one.
    until(async || {
        let request = get(&[("authorization", &token), ("host", "localhost")]);
        let Ok(answer) = kept.send_request(request).await else {
            return true;
        };
        let (head, body) = answer.into_parts();
        body.collect().await.unwrap();
        let is_unavailable = head.status == 503;
        assert!(!is_unavailable || head.headers.contains_key("retry-after"));
        is_unavailable
    })
    .await;
}

#[tokio::test]
async fn an_outage_has_one_warning_and_requests_are_served_meanwhile() {
    let stack = Stack::new().await;
    let (mut server, _proxy, port) = server_and_proxy(&stack).await;
    let token = stack.token(|_| ());

    stack.agent.stop().await;
    server.logged("lost the Workload API").await;
    assert_eq!(stack.https(port).status(&token).await, 200);

    stack.agent.restart().await.unwrap();
    server.logged("the Workload API is back").await;
    assert_eq!(stack.https(port).status(&token).await, 200);
    let log = server.whole_log().await;
    let warnings = log.matches("WARN").count();
    assert_eq!(
        warnings, 2,
        "not one for the beginning and one for the end:\n{log}"
    );
}

#[tokio::test]
async fn a_withdrawn_client_gets_no_token() {
    let stack = Stack::new().await;
    stack.agent.withdraw(&SpiffeId::new(CLIENT_ID).unwrap());
    let output = stack.client(1, &["-m", "5s"]).await;
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("no registration entry matches this process"),
        "{text}"
    );
}
