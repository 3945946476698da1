use std::time::{SystemTime, UNIX_EPOCH};

use harness::{
    Stack,
    https::get,
    metrics::Page,
    raw::Client,
    upstream::{HoldingUpstream, answering},
    wait::until,
};
use http::StatusCode;
use serve::body;

#[tokio::test]
async fn request_that_waits_for_its_caller_is_seen_as_waiting() {
    let stack = Stack::new().await;
    let slow = HoldingUpstream::new(&stack).await;
    let (proxy, admin) = stack.proxy_with_admin(slow.port, &[]).await;
    let https = stack.https(proxy.listening().await);
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
    let mut caller = Client::sending(&https, head).await;
    let page = Page::wait_for(&admin, "spiffe_requests_in_flight{state=\"waiting\"}", 1.0).await;
    assert_eq!(page.at("spiffe_requests_in_flight{state=\"working\"}"), 0.0);
    caller.send([b'a'; 100_000]).await;
    slow.release(1);
    assert_eq!(caller.answer().await.unwrap().status(), 200);
}

#[tokio::test]
async fn status_that_nobody_knows_is_counted_by_its_class() {
    let stack = Stack::new().await;
    let odd = answering(&stack, &["h2"], async |_| {
        body::text(StatusCode::from_u16(299).unwrap(), "odd")
    });
    let (proxy, admin) = stack.proxy_with_admin(odd.await, &[]).await;
    let https = stack.https(proxy.listening().await);
    assert_eq!(https.send(get(&[])).await.status, 299);
    let page = Page::wait_for(&admin, "spiffe_requests_total{code=\"2xx\"}", 1.0).await;
    page.assert_all("spiffe_requests_total", &[("code=\"2xx\"", 1.0)]);
    assert!(page.at("spiffe_upstream_connections_open") >= 1.0);
    assert_eq!(page.at("spiffe_upstream_endpoints{state=\"usable\"}"), 1.0);
}

#[tokio::test]
async fn client_counts_the_stream_of_its_bundles_and_they_are_in_use() {
    let stack = Stack::new().await;
    let args = ["--listen", "127.0.0.1:0", "--url", "https://127.0.0.1:1"];
    let (client, admin) = stack.spawn_with_admin("client", &args).await;
    client.listening().await;
    let up = "spiffe_workload_api_stream_up{stream=\"x509_bundles\"}";
    let page = Page::wait_for(&admin, up, 1.0).await;
    let updates = "spiffe_workload_api_updates_total{stream=\"x509_bundles\"}";
    assert_eq!(page.at(updates), 1.0);
    assert_eq!(page.at("spiffe_trust_domains{kind=\"x509\"}"), 1.0);
}

#[tokio::test]
async fn process_has_its_start_its_build_its_memory_and_its_processor_time() {
    let stack = Stack::new().await;
    let (_server, admin) = stack.server_with_admin(&[]).await;
    let page = Page::of(&admin).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let age = now.as_secs_f64() - page.at("process_start_time_seconds");
    assert!((0.0..60.0).contains(&age), "{age}");
    assert!(page.at("process_resident_memory_bytes") > 1e6);
    assert_eq!(page.all("spiffe_build_info").len(), 1);
    assert_eq!(page.at("spiffe_trust_domains{kind=\"jwt\"}"), 1.0);
    let before = page.at("process_cpu_seconds_total");
    until(async || Page::of(&admin).await.at("process_cpu_seconds_total") > before).await;
}
