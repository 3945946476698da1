use common::reason::Reason;
use harness::{
    Stack, https::get, metrics::Page, raw::Client, upstream::HoldingUpstream, wait::until,
};

use super::Watched;

#[tokio::test]
async fn body_that_is_not_taken_has_the_reason_of_its_fault() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let args = ["--body-timeout", "1s"];
    let proxy = Watched::proxy(&stack, server.listening().await, &args).await;
    for (rest, status, reason) in [
        (
            "Transfer-Encoding: gzip, chunked\r\n\r\n",
            501,
            Reason::TransferCoding,
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\nnot a size\r\n",
            400,
            Reason::RequestBody,
        ),
        ("Content-Length: 9\r\n\r\n1234", 408, Reason::BodyTimeout),
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{rest}");
        let mut caller = Client::sending(&proxy.https, request).await;
        assert_eq!(caller.answer().await.unwrap().status(), status, "{reason}");
        proxy.has(status, reason).await;
    }
}

#[tokio::test]
async fn request_that_has_passed_too_many_proxies_is_a_loop() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let proxy = Watched::proxy(&stack, server.listening().await, &[]).await;
    let passed = (0..11).map(|number| format!("1.1 spiffe-jwt-proxy-{number:x}"));
    let passed = passed.collect::<Vec<_>>().join(", ");
    assert_eq!(proxy.https.send(get(&[("via", &passed)])).await.status, 508);
    proxy.has(508, Reason::Loop).await;
}

#[tokio::test]
async fn request_that_makes_room_for_another_source_is_evicted() {
    let stack = Stack::new().await;
    let slow = HoldingUpstream::new(&stack).await;
    let args = ["--max-requests", "2"];
    let proxy = Watched::proxy(&stack, slow.port, &args).await;
    let ask = |source: &str| {
        let https = proxy.https.from(source);
        tokio::spawn(async move { https.send(get(&[])).await.status })
    };
    let first = ask("127.0.0.2");
    slow.arrived(1).await;
    let second = ask("127.0.0.2");
    slow.arrived(1).await;
    let third = ask("127.0.0.3");
    assert_eq!(first.await.unwrap(), 503);
    slow.arrived(1).await;
    proxy.has(503, Reason::Evicted).await;
    // The upstream may still hold the first one.
    slow.release(3);
    for served in [second, third] {
        assert_eq!(served.await.unwrap(), 200);
    }
    let shed = "spiffe_shed_total{cause=\"evicted\"}";
    until(async || Page::of(&proxy.admin).await.at(shed) == 1.0).await;
}
