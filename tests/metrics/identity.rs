use harness::{Stack, https::Https, metrics::Page};
use x509_parser::parse_x509_certificate;

const SVIDS: &str = "spiffe_workload_api_updates_total{stream=\"x509_svids\"}";
const BUNDLES: &str = "spiffe_workload_api_updates_total{stream=\"jwt_bundles\"}";
const EXPIRY: &str = "spiffe_x509_svid_expiry_timestamp_seconds";

/// Returns the time at which the certificate expires that a process presents.
async fn presented_until(https: &Https) -> f64 {
    let der = https.presented().await.unwrap();
    let (_, certificate) = parse_x509_certificate(&der).unwrap();
    certificate.validity().not_after.timestamp() as f64
}

#[tokio::test]
async fn rotations_are_counted_and_the_expiry_is_that_of_the_new_svid() {
    let stack = Stack::new().await;
    let (server, admin) = stack.server_with_admin(&[]).await;
    let before = Page::of(&admin).await;
    assert_eq!((before.at(SVIDS), before.at(BUNDLES)), (1.0, 1.0));
    let https = stack.https(server.listening().await);
    assert_eq!(before.at(EXPIRY), presented_until(&https).await);
    assert_eq!(before.at("spiffe_readiness{state=\"ready\"}"), 1.0);
    assert_eq!(before.at("spiffe_jwt_authorities"), 1.0);
    stack.agent.rotate_x509();
    let after = Page::wait_for(&admin, SVIDS, 2.0).await;
    assert_eq!(after.at(EXPIRY), presented_until(&https).await);
    stack.agent.prepare_jwt_key();
    let after = Page::wait_for(&admin, BUNDLES, 2.0).await;
    assert_eq!(after.at("spiffe_jwt_authorities"), 2.0);
    assert_eq!(after.sum("spiffe_workload_api_rejected_updates_total"), 0.0);
}

#[tokio::test]
async fn stream_that_is_down_is_seen_and_so_is_its_return() {
    let stack = Stack::new().await;
    let (_server, admin) = stack.server_with_admin(&[]).await;
    let streams = ["jwt_bundles", "x509_svids"];
    let up = |stream: &str| format!("spiffe_workload_api_stream_up{{stream=\"{stream}\"}}");
    for stream in streams {
        Page::wait_for(&admin, &up(stream), 1.0).await;
    }
    assert_eq!(Page::of(&admin).await.get(&up("x509_bundles")), None);
    stack.agent.stop().await;
    for stream in streams {
        Page::wait_for(&admin, &up(stream), 0.0).await;
    }
    Page::wait_for(&admin, "spiffe_readiness{state=\"degraded\"}", 1.0).await;
    stack.agent.restart().await.unwrap();
    for stream in streams {
        Page::wait_for(&admin, &up(stream), 1.0).await;
    }
    Page::wait_for(&admin, "spiffe_readiness{state=\"ready\"}", 1.0).await;
}
