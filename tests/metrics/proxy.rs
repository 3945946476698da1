use std::future::pending;

use harness::{
    Stack,
    https::get,
    metrics::Page,
    raw::{self, Reply},
    upstream::{self, HoldingUpstream},
};
use http::Version;

#[tokio::test]
async fn requests_connections_and_failures_of_an_upstream_are_counted() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let (proxy, admin) = stack
        .proxy_with_admin(server.listening().await, &["--cores", "2"])
        .await;
    let https = stack.https(proxy.listening().await);
    let token = stack.token(|_| ());
    for _ in 0..5 {
        assert_eq!(https.status(&token).await, 200);
    }
    for _ in 0..2 {
        assert_eq!(https.send(get(&[])).await.status, 401);
    }
    let mut other = get(&[]);
    *other.uri_mut() = "/other".parse().unwrap();
    for _ in 0..3 {
        assert_eq!(https.send(other.clone()).await.status, 404);
    }
    let page = Page::wait_until_quiet(&admin).await;
    assert_eq!(page.at("spiffe_upstream_requests_total"), 7.0);
    assert_eq!(page.at("spiffe_upstream_retries_total"), 0.0);
    // Each core that has a request opens one connection.
    let opened = page.at("spiffe_upstream_connections_total{protocol=\"h2\"}");
    assert!((1.0..=2.0).contains(&opened), "{opened}");
    page.assert_all("spiffe_refusals_total", &[("reason=\"not_found\"", 3.0)]);
    let codes = [
        ("code=\"200\"", 5.0),
        ("code=\"401\"", 2.0),
        ("code=\"404\"", 3.0),
    ];
    page.assert_all("spiffe_requests_total", &codes);

    server.stop().await;
    for _ in 0..4 {
        assert_eq!(https.send(get(&[])).await.status, 502);
    }
    let page = Page::wait_until_quiet(&admin).await;
    assert_eq!(page.sum("spiffe_refusals_total"), 3.0 + 4.0);
    assert_eq!(
        page.at("spiffe_refusals_total{reason=\"upstream_connect\"}"),
        4.0
    );
    assert!(page.at("spiffe_upstream_ejections_total") >= 1.0);
}

#[tokio::test]
async fn request_that_is_sent_again_is_counted_as_a_retry() {
    let stack = Stack::new().await;
    let closing = |_: &raw::Message| Reply::Last(Vec::new());
    let broken = raw::Upstream::new(&stack, closing).await;
    let (proxy, admin) = stack.proxy_with_admin(broken.port, &["--cores", "1"]).await;
    let https = stack.https(proxy.listening().await);
    assert_eq!(https.send(get(&[])).await.status, 502);
    let page = Page::wait_until_quiet(&admin).await;
    assert_eq!(page.at("spiffe_upstream_requests_total"), 2.0);
    assert_eq!(page.at("spiffe_upstream_retries_total"), 1.0);
    page.assert_all(
        "spiffe_refusals_total",
        &[("reason=\"upstream_failed\"", 1.0)],
    );
    page.assert_all(
        "spiffe_upstream_connections_total",
        &[("protocol=\"http/1.1\"", 2.0)],
    );
}

#[tokio::test]
async fn requests_in_flight_are_seen_and_those_over_the_limit_are_shed() {
    let stack = Stack::new().await;
    let slow = HoldingUpstream::new(&stack).await;
    let (proxy, admin) = stack
        .proxy_with_admin(slow.port, &["--max-requests", "2"])
        .await;
    let https = stack.https(proxy.listening().await);
    let held = [Version::HTTP_11, Version::HTTP_2].map(|version| {
        let https = https.clone();
        tokio::spawn(async move { https.send_over(version, get(&[])).await })
    });
    slow.arrived(2).await;
    for _ in 0..3 {
        assert_eq!(https.send(get(&[])).await.status, 503);
    }
    let page = Page::wait_for(&admin, "spiffe_requests_total{code=\"503\"}", 3.0).await;
    assert_eq!(page.at("spiffe_requests_in_flight{state=\"working\"}"), 2.0);
    page.assert_all("spiffe_requests_total", &[("code=\"503\"", 3.0)]);
    page.assert_all("spiffe_shed_total", &[("cause=\"overloaded\"", 3.0)]);
    slow.release(2);
    for one in held {
        assert_eq!(one.await.unwrap().status, 200);
    }
    let page = Page::wait_until_quiet(&admin).await;
    assert_eq!(page.at("spiffe_requests_total{code=\"200\"}"), 2.0);
}

#[tokio::test]
async fn request_whose_caller_leaves_before_the_answer_is_counted_without_a_code() {
    let stack = Stack::new().await;
    let silent = upstream::answering(&stack, &["h2"], |_| pending()).await;
    let (proxy, admin) = stack.proxy_with_admin(silent, &[]).await;
    let https = stack.https(proxy.listening().await);
    tokio::select! {
        _ = https.send_over(Version::HTTP_2, get(&[])) => panic!("it has an answer"),
        _ = Page::wait_for(&admin, "spiffe_upstream_requests_total", 1.0) => {}
    }
    let page = Page::wait_until_quiet(&admin).await;
    page.assert_all("spiffe_requests_total", &[("code=\"none\"", 1.0)]);
    assert_eq!(page.at("spiffe_request_duration_seconds_count"), 1.0);
}
