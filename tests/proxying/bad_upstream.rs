use std::sync::atomic::Ordering::SeqCst;

use harness::{
    PATIENCE, SERVER_ID, Stack, https::get, process::free_ports, proxy_stack::ProxyStack,
    upstream::Recording,
};

/// Sends a request to a proxy whose upstream presents the X.509-SVID of `stranger`. Returns the log
/// line with the reason why the upstream is refused.
async fn refusal_of(stranger: &Stack) -> String {
    let stack = ProxyStack::before(async |_| Recording::new(stranger).await, &[]).await;
    assert_eq!(stack.https.send(get(&[])).await.status, 502);
    assert_eq!(stack.upstream.bytes.load(SeqCst), 0);
    stack
        .proxy
        .logged("cannot connect to https://localhost")
        .await
}

#[tokio::test]
async fn an_impostor_gets_no_byte_of_the_request() {
    let stack = Stack::with("spiffe://example.org/other", |_| ()).await;
    let impostor = Recording::new(&stack).await;
    let stack = ProxyStack::on(stack, impostor, &[]).await;

    let answer = stack
        .https
        .send(get(&[("authorization", "Bearer a.b.c")]))
        .await;

    assert_eq!(answer.status, 502);
    assert_eq!(answer.body, "502 Bad Gateway\n");
    let line = stack.proxy.logged("is not who it should be").await;
    let url = format!("https://localhost:{}", stack.upstream.port);
    assert!(line.contains(&url), "{line}");
    assert!(
        line.contains("expected spiffe://example.org/server, presented spiffe://example.org/other"),
        "{line}"
    );
    assert_eq!(stack.upstream.bytes.load(SeqCst), 0);
}

#[tokio::test]
async fn upstream_whose_certificate_no_bundle_verifies_is_refused() {
    let line = refusal_of(&Stack::new().await).await;
    assert!(line.contains(SERVER_ID), "{line}");
}

#[tokio::test]
async fn an_upstream_of_another_trust_domain_is_refused_by_its_name() {
    let stranger = Stack::with("spiffe://other.test/server", |config| {
        config
            .entries
            .retain(|entry| entry.id().trust_domain().as_str() == "other.test");
    })
    .await;
    let line = refusal_of(&stranger).await;
    assert!(line.contains(SERVER_ID), "{line}");
    assert!(line.contains("trust domain other.test"), "{line}");
}

#[tokio::test]
async fn absent_upstream_is_answered_with_502() {
    let [free] = free_ports();
    let stack = ProxyStack::before(async |_| free, &[]).await;

    assert_eq!(stack.https.send(get(&[])).await.status, 502);

    stack.proxy.logged("onnection refused").await;
}

#[tokio::test]
async fn upstream_that_is_slow_to_connect_or_to_answer_is_a_gateway_timeout_p157() {
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = mute.local_addr().unwrap().port();
    let stack = ProxyStack::before(async |_| port, &["--connect-timeout", "100ms"]).await;
    assert_eq!(stack.https.send(get(&[])).await.status, 504);
    stack.proxy.logged("not connected within 100ms").await;

    let stack = ProxyStack::answering(&["h2"], &["--response-timeout", "100ms"], async |_| {
        tokio::time::sleep(PATIENCE).await;
        unreachable!("the proxy has given up by now")
    })
    .await;
    assert_eq!(stack.https.send(get(&[])).await.status, 504);
    stack.proxy.logged("did not answer in time").await;
}
