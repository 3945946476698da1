use std::future::pending;

use common::reason::Reason;
use harness::{
    SERVER_ID, Stack,
    fake_workload_api::{Fake, Genuine},
    frames,
    https::get,
    metrics::Page,
    raw::Client,
    scripted::Scripted,
    upstream::{HoldingUpstream, answering},
    wait::until,
};
use http::Method;
use tokio::net::TcpListener;

use super::Watched;

#[tokio::test]
async fn upstream_that_does_not_complete_its_handshake_is_upstream_connect_timeout() {
    let stack = Stack::new().await;
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = mute.local_addr().unwrap().port();
    let proxy = Watched::proxy(&stack, port, &["--connect-timeout", "100ms"]).await;
    assert_eq!(proxy.https.send(get(&[])).await.status, 504);
    proxy.has(504, Reason::UpstreamConnectTimeout).await;
}

#[tokio::test]
async fn upstream_that_does_not_answer_is_upstream_timeout() {
    let stack = Stack::new().await;
    let silent = answering(&stack, &["h2"], |_| pending()).await;
    let proxy = Watched::proxy(&stack, silent, &["--response-timeout", "100ms"]).await;
    assert_eq!(proxy.https.send(get(&[])).await.status, 504);
    proxy.has(504, Reason::UpstreamTimeout).await;
}

#[tokio::test]
async fn upstream_that_is_not_the_wanted_one_has_the_reason_of_its_trust() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    for (id, reason) in [
        ("spiffe://example.org/other", Reason::UpstreamIdentity),
        ("spiffe://other.example/server", Reason::UpstreamTrustDomain),
    ] {
        let port = server.listening().await;
        let proxy = Watched::proxy(&stack, port, &["--upstream-id", id]).await;
        assert_eq!(proxy.https.send(get(&[])).await.status, 502);
        proxy.has(502, reason).await;
    }
}

#[tokio::test]
async fn upstream_that_cannot_be_verified_any_more_is_upstream_no_bundles() {
    let stack = Stack::new().await;
    let genuine = Genuine::of(&stack).await;
    let fake = Fake::new(&genuine);
    let server = stack.server(&[]).await;
    let upstream = format!("https://localhost:{}", server.listening().await);
    let args = ["--upstream", &upstream, "--bundle-grace", "1s"];
    let proxy = Watched::at(&stack, &fake.endpoint(), "proxy", &args).await;
    let mut bad = genuine.x509.clone();
    bad.svids[0].bundle = b"garbage".to_vec();
    fake.say_x509(Ok(bad));
    until(async || proxy.https.send(get(&[])).await.status == 503).await;
    proxy.has(503, Reason::UpstreamNoBundles).await;
    let rejected = "spiffe_workload_api_rejected_updates_total{stream=\"x509_svids\"}";
    assert_eq!(Page::of(&proxy.admin).await.at(rejected), 1.0);
}

#[tokio::test]
async fn upload_without_room_on_a_connection_is_upstream_full_and_is_seen_in_the_queue() {
    let stack = Stack::new().await;
    let slow = HoldingUpstream::new(&stack).await;
    let args = ["--max-upstream-connections", "1", "--queue-timeout", "3s"];
    let proxy = Watched::proxy(&stack, slow.port, &args).await;
    let upload = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n{}",
        "a".repeat(20_000)
    );
    let mut first = Client::sending(&proxy.https, &upload).await;
    slow.arrived(1).await;
    let mut second = Client::sending(&proxy.https, &upload).await;
    let page = Page::wait_for(&proxy.admin, "spiffe_upstream_queued", 1.0).await;
    assert_eq!(page.at("spiffe_upstream_requests_in_flight"), 1.0);
    assert_eq!(second.answer().await.unwrap().status(), 503);
    proxy.has(503, Reason::UpstreamFull).await;
    let page = Page::of(&proxy.admin).await;
    assert_eq!(page.at("spiffe_shed_total{cause=\"upstream_full\"}"), 1.0);
    assert_eq!(page.at("spiffe_upstream_queued"), 0.0);
    slow.release(1);
    assert_eq!(first.answer().await.unwrap().status(), 200);
}

#[tokio::test]
async fn post_that_the_upstream_cancels_is_upstream_cancelled() {
    let stack = Stack::new().await;
    let cancelling = Scripted::new(&stack, |mut peer| async move {
        while let Some(asked) = peer.asked().await {
            peer.send(frames::reset(asked.stream, frames::CANCEL)).await;
        }
    })
    .await;
    let proxy = Watched::proxy(&stack, cancelling.port, &["--upstream-id", SERVER_ID]).await;
    let mut post = get(&[]);
    *post.method_mut() = Method::POST;
    assert_eq!(proxy.https.send(post).await.status, 502);
    proxy.has(502, Reason::UpstreamCancelled).await;
}
