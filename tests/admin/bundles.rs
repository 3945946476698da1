use std::collections::HashMap;

use dev_agent::pb;
use harness::{
    Stack,
    admin::{ADMIN, Admin},
    fake_workload_api::{Fake, Genuine},
};

const OWN: &str = "spiffe://example.org";
const OTHER: &str = "spiffe://other.example";

fn jwt_bundles(bundles: &[(&str, &str)]) -> pb::JwtBundlesResponse {
    let bundles = bundles.iter();
    let bundles = bundles.map(|(name, jwks)| ((*name).to_owned(), (*jwks).as_bytes().to_vec()));
    pb::JwtBundlesResponse {
        bundles: bundles.collect(),
    }
}

#[tokio::test]
async fn jwt_bundle_that_is_missing_or_cannot_be_used_degrades_its_own_condition_only() {
    let stack = Stack::new().await;
    let fake = Fake::new(&Genuine::of(&stack).await);
    let (server, _) = fake.server(&ADMIN).await;
    let admin = Admin::of(&server).await;
    let own = stack.agent.jwks();
    let of = |domain: &str| format!("jwt_bundles/{domain}");

    fake.say_jwt_bundles(Ok(jwt_bundles(&[(OWN, &own), (OTHER, "{}")])));
    let (status, bundle) = admin
        .becomes("degraded", &of("other.example"), "degraded")
        .await;
    assert_eq!(status, 200);
    let reason = bundle["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("the bundle of other.example can't be used: "),
        "{reason}"
    );
    admin.becomes("degraded", &of("example.org"), "met").await;

    fake.say_jwt_bundles(Ok(jwt_bundles(&[(OTHER, &own)])));
    let (status, bundle) = admin
        .becomes("degraded", &of("example.org"), "degraded")
        .await;
    assert_eq!(status, 200);
    let reason = bundle["reason"].as_str().unwrap();
    assert_eq!(reason, "the Workload API sends no JWT bundle of it");
    admin.becomes("degraded", &of("other.example"), "met").await;
}

#[tokio::test]
async fn x509_bundle_that_cannot_be_used_degrades_trust_bundles_and_the_own_one_is_lost_after_the_grace()
 {
    let stack = Stack::new().await;
    let genuine = Genuine::of(&stack).await;
    let fake = Fake::new(&genuine);
    let args = [&ADMIN[..], &["--bundle-grace", "2s"]].concat();
    let (server, _) = fake.server(&args).await;
    let admin = Admin::of(&server).await;

    let mut next = genuine.x509.clone();
    next.federated_bundles = HashMap::from([(OTHER.to_owned(), b"garbage".to_vec())]);
    fake.say_x509(Ok(next));
    let (status, bundles) = admin.becomes("degraded", "trust_bundles", "degraded").await;
    assert_eq!(status, 200);
    let reason = bundles["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("the bundle of other.example can't be used: "),
        "{reason}"
    );

    let mut next = genuine.x509.clone();
    next.svids[0].bundle = b"garbage".to_vec();
    fake.say_x509(Ok(next));
    let (status, _) = admin.becomes("not ready", "trust_bundles", "lost").await;
    assert_eq!(status, 503);
    server
        .logged("the Workload API has sent no usable bundles for too long")
        .await;
    fake.say_x509(Ok(genuine.x509));
    admin.becomes("ready", "trust_bundles", "met").await;
}
