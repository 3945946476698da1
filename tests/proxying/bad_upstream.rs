use std::sync::atomic::Ordering;

use harness::{
    PATIENCE, SERVER_ID, Stack,
    https::get,
    process,
    upstream::{self, Recording},
};

#[tokio::test]
async fn an_impostor_gets_no_byte_of_the_request() {
    let stack = Stack::with("spiffe://example.org/other", |_| ()).await;
    let impostor = Recording::new(&stack).await;
    let proxy = stack.proxy(impostor.port, &[]).await;

    let answer = stack
        .https(proxy.listening().await)
        .send(get(&[("authorization", "Bearer a.b.c")]))
        .await;

    assert_eq!(answer.status, 502);
    assert_eq!(answer.body, "502 Bad Gateway\n");
    let line = proxy.logged("is not who it should be").await;
    assert!(
        line.contains(&format!("https://localhost:{}", impostor.port)),
        "{line}"
    );
    assert!(
        line.contains("expected spiffe://example.org/server, presented spiffe://example.org/other"),
        "{line}"
    );
    assert_eq!(impostor.bytes.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn upstream_whose_certificate_no_bundle_verifies_is_refused() {
    let (stack, stranger) = (Stack::new().await, Stack::new().await);
    let impostor = Recording::new(&stranger).await;
    let proxy = stack.proxy(impostor.port, &[]).await;

    let answer = stack.https(proxy.listening().await).send(get(&[])).await;

    assert_eq!(answer.status, 502);
    let line = proxy.logged("cannot connect to https://localhost").await;
    assert!(line.contains(SERVER_ID), "{line}");
    assert_eq!(impostor.bytes.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_upstream_of_another_trust_domain_is_refused_by_its_name() {
    let stack = Stack::new().await;
    let stranger = Stack::with("spiffe://other.test/server", |config| {
        config
            .entries
            .retain(|entry| entry.id().trust_domain().as_str() == "other.test");
    })
    .await;
    let impostor = Recording::new(&stranger).await;
    let proxy = stack.proxy(impostor.port, &[]).await;

    let answer = stack.https(proxy.listening().await).send(get(&[])).await;

    assert_eq!(answer.status, 502);
    let line = proxy.logged("cannot connect to https://localhost").await;
    assert!(line.contains(SERVER_ID), "{line}");
    assert!(line.contains("trust domain other.test"), "{line}");
    assert_eq!(impostor.bytes.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn absent_upstream_is_answered_with_502() {
    let stack = Stack::new().await;
    let [free] = process::free_ports();
    let proxy = stack.proxy(free, &[]).await;

    let answer = stack.https(proxy.listening().await).send(get(&[])).await;

    assert_eq!(answer.status, 502);
    proxy.logged("onnection refused").await;
}

#[tokio::test]
async fn upstream_that_is_slow_to_connect_or_to_answer_is_a_gateway_timeout_p157() {
    let stack = Stack::new().await;
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = stack
        .proxy(
            mute.local_addr().unwrap().port(),
            &["--connect-timeout", "100ms"],
        )
        .await;
    assert_eq!(
        stack
            .https(proxy.listening().await)
            .send(get(&[]))
            .await
            .status,
        504
    );
    proxy.logged("not connected within 100ms").await;

    let slow = upstream::answering(&stack, &["h2"], async |_| {
        tokio::time::sleep(PATIENCE).await;
        unreachable!("the proxy has given up by now")
    })
    .await;
    let proxy = stack.proxy(slow, &["--response-timeout", "100ms"]).await;
    assert_eq!(
        stack
            .https(proxy.listening().await)
            .send(get(&[]))
            .await
            .status,
        504
    );
    proxy.logged("did not answer in time").await;
}
