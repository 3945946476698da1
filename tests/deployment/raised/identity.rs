use std::time::Duration;

use dev_agent::pb;
use harness::{
    CLIENT_ID, SERVER_ID, Stack,
    admin::{ADMIN, Admin},
    fake_workload_api::{Fake, Genuine},
    metrics::Page,
    prometheus::Prometheus,
};
use spiffe::SpiffeId;

use super::{MINUTE, nothing};

#[tokio::test]
async fn outage_and_withdrawal_are_raised_for_the_process_that_has_them() {
    let stack = Stack::new().await;
    let (server, admin) = stack.server_with_admin(&[]).await;
    let other_stack = Stack::new().await;
    let (_sound, other) = other_stack.server_with_admin(&[]).await;
    let Some(prometheus) = Prometheus::start(&[&admin, &other], MINUTE).await else {
        return;
    };
    let instance = [("instance", admin.address())];

    stack.agent.stop().await;
    for alert in ["SpiffeDegraded", "SpiffeWorkloadApiAway"] {
        prometheus.fires(alert, &instance, nothing).await;
    }
    let (_, identity) = admin.becomes("degraded", "identity", "degraded").await;
    let reason = identity["reason"].as_str().unwrap();
    assert!(reason.starts_with("the Workload API is away"), "{reason}");
    server
        .logged("WARN lost the Workload API; continuing")
        .await;
    let page = Page::of(&admin).await;
    assert_eq!(page.at("spiffe_readiness{state=\"degraded\"}"), 1.0);
    assert_eq!(page.sum("spiffe_workload_api_stream_up"), 0.0);

    stack.agent.restart().await.unwrap();
    admin.becomes("ready", "identity", "met").await;
    stack.agent.withdraw(&SpiffeId::new(SERVER_ID).unwrap());
    prometheus.fires("SpiffeNotReady", &instance, nothing).await;
    let (_, identity) = admin.becomes("not ready", "identity", "lost").await;
    let reason = identity["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("withdrawn by the Workload API"),
        "{reason}"
    );
    server
        .logged("identity withdrawn by the Workload API")
        .await;
    let page = Page::of(&admin).await;
    assert_eq!(page.at("spiffe_readiness{state=\"not_ready\"}"), 1.0);
    let alerts = prometheus.of(&other).await;
    let raised = ["SpiffeDegraded", "SpiffeWorkloadApiAway", "SpiffeNotReady"];
    assert!(
        raised
            .iter()
            .all(|one| !alerts.contains(&(*one).to_owned())),
        "{alerts:?}"
    );
}

#[tokio::test]
async fn expiry_and_bad_updates_are_raised_for_the_process_that_has_them() {
    let short = |config: &mut dev_agent::Config| {
        config.x509_ttl = Duration::from_secs(300);
        config.ca_ttl = Duration::from_secs(3600);
    };
    let (stack, sound) = (Stack::with(SERVER_ID, short).await, Stack::new().await);
    let (_server, expiring) = stack.server_with_admin(&[]).await;
    let fake = Fake::new(&Genuine::of(&sound).await);
    let (server, _) = fake.server(&ADMIN).await;
    let misled = Admin::of(&server).await;
    let Some(prometheus) = Prometheus::start(&[&expiring, &misled], MINUTE).await else {
        return;
    };

    let instance = [("instance", expiring.address())];
    for alert in ["SpiffeIdentityExpiresSoon", "SpiffeAuthorityExpires"] {
        prometheus.fires(alert, &instance, nothing).await;
    }
    let (_, svid) = expiring.becomes("ready", "x509_svid", "met").await;
    assert!(svid["seconds_left"].as_u64().unwrap() < 600, "{svid}");
    let alerts = prometheus.of(&misled).await;
    assert!(
        alerts
            .iter()
            .all(|one| !one.ends_with("Expires") && !one.ends_with("Soon")),
        "{alerts:?}"
    );

    let bundles = [("spiffe://example.org".to_owned(), b"{}".to_vec())].into();
    fake.say_jwt_bundles(Ok(pb::JwtBundlesResponse { bundles }));
    let labels = [("instance", misled.address()), ("stream", "jwt_bundles")];
    prometheus
        .fires("SpiffeUpdatesRejected", &labels, nothing)
        .await;
    let name = "jwt_bundles/example.org";
    let (_, bundle) = misled.becomes("degraded", name, "degraded").await;
    let reason = bundle["reason"].as_str().unwrap();
    assert!(reason.contains("it has no array of keys"), "{reason}");
    server.logged("it has no array of keys").await;
    assert_eq!(
        Page::of(&misled)
            .await
            .sum("spiffe_workload_api_rejected_updates_total"),
        1.0
    );
}

#[tokio::test]
async fn token_that_is_not_renewed_is_raised_with_its_audience() {
    let life = |config: &mut dev_agent::Config| config.jwt_ttl = Duration::from_secs(4);
    let stack = Stack::with(SERVER_ID, life).await;
    let args = ["--listen", "127.0.0.1:0", "--url", "https://127.0.0.1:1"];
    let (client, admin) = stack.spawn_with_admin("client", &args).await;
    admin.becomes("ready", "token", "met").await;
    // The client tries again every 3 s at most, whatever a minute of the rules is.
    let minute = Duration::from_secs(1);
    let Some(prometheus) = Prometheus::start(&[&admin], minute).await else {
        return;
    };
    stack.agent.withdraw(&SpiffeId::new(CLIENT_ID).unwrap());
    let labels = [("instance", admin.address()), ("audience", SERVER_ID)];
    prometheus
        .fires("SpiffeTokensNotFetched", &labels, nothing)
        .await;
    let (_, token) = admin.becomes("not ready", "token", "lost").await;
    let reason = token["reason"].as_str().unwrap();
    assert!(reason.contains("no identity issued"), "{reason}");
    client.logged("no identity issued").await;
}
