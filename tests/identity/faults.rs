use std::time::{Duration, Instant};

use common::workload::{Degradation, Readiness, Unready};
use dev_agent::{FederatedBundle, pb};
use serde_json::json;
use spiffe::BundleSource;

use harness::{
    CLIENT_ID, PATIENCE, SERVER_ID, Stack,
    fake_workload_api::{Fake, Genuine},
    wait::{becomes, until},
};

const OWN: &str = "spiffe://example.org";
const PARTNER: &str = "spiffe://partner.example";
const PARTNER_CALLER: &str = "spiffe://partner.example/caller";

/// Starts an agent of another trust domain, which has a caller.
async fn partner() -> Stack {
    Stack::with(PARTNER_CALLER, |config| {
        config.entries = vec![format!("{PARTNER_CALLER}=unix:uid:0").parse().unwrap()];
    })
    .await
}

/// Returns a token of the partner's caller for the server.
fn partner_token(partner: &Stack) -> String {
    let claims = partner.agent.jwt_claims(PARTNER_CALLER, &[SERVER_ID]);
    partner.agent.mint_jwt(&claims)
}

fn jwt_bundles(bundles: &[(&str, String)]) -> pb::JwtBundlesResponse {
    let bundles = bundles.iter();
    let bundles = bundles.map(|(name, jwks)| ((*name).to_owned(), jwks.clone().into_bytes()));
    pb::JwtBundlesResponse {
        bundles: bundles.collect(),
    }
}

/// Adds `count` federated trust domains to a message, all with this bundle.
fn federate<V: Clone>(
    bundles: &mut std::collections::HashMap<String, V>,
    count: usize,
    bundle: &V,
) {
    for number in 0..count {
        bundles.insert(format!("spiffe://domain-{number}.test"), bundle.clone());
    }
}

#[tokio::test]
async fn very_many_svids_and_trust_domains_are_used_w094() {
    const MANY: usize = 300;
    let stack = Stack::new().await;
    let mut genuine = Genuine::of(&stack).await;
    let own = genuine.x509.svids[0].clone();
    let x509_bundle = own.bundle.clone();
    let others = (1..150).map(|number| pb::X509svid {
        spiffe_id: format!("spiffe://example.org/other-{number}"),
        ..own.clone()
    });
    genuine.x509.svids.extend(others);
    federate(&mut genuine.x509.federated_bundles, MANY, &x509_bundle);
    let jwks = stack.agent.jwks().into_bytes();
    federate(&mut genuine.jwt_bundles.bundles, MANY, &jwks);
    let fake = Fake::new(&genuine);
    let (mut server, port) = fake.server(&[]).await;
    let old = stack.token(|_| ());
    let https = stack.https(port);
    assert_eq!(https.status(&old).await, 200);

    stack.agent.rotate_jwt_key();
    stack.agent.drop_old_jwt_key();
    let mut next = Genuine::of(&stack).await.jwt_bundles;
    federate(&mut next.bundles, 2 * MANY, &jwks);
    fake.say_jwt_bundles(Ok(next));
    until(async || https.status(&old).await == 401).await;
    assert_eq!(https.status(&stack.token(|_| ())).await, 200);

    stack.agent.rotate_x509();
    let before = https.presented().await;
    let mut next = Genuine::of(&stack).await.x509;
    federate(&mut next.federated_bundles, 2 * MANY, &x509_bundle);
    fake.say_x509(Ok(next));
    until(async || https.presented().await != before).await;
    let log = server.whole_log().await;
    assert!(!log.contains("ERROR"), "{log}");
    assert!(
        log.lines().all(|line| line.len() < 4000),
        "lines are bounded"
    );
}

/// SPIRE sends as many if 150 entries match one workload.
#[tokio::test]
async fn process_with_150_entries_and_250_federated_trust_domains_is_ready_w094() {
    let stack = Stack::with(SERVER_ID, |config| {
        let server = config.entries[0].clone();
        let selector = server.selectors()[0].clone();
        let more = (1..150).map(|n| format!("spiffe://example.org/n{n}={selector}"));
        config.entries.extend(more.map(|one| one.parse().unwrap()));
        config.federated = (0..250)
            .map(|n| {
                let domain = format!("spiffe://d{n}.test").parse().unwrap();
                FederatedBundle::parse(domain, r#"{"keys":[]}"#).unwrap()
            })
            .collect();
    })
    .await;
    let server = stack.server(&[]).await;
    let https = stack.https(server.listening().await);
    let old = stack.token(|_| ());
    assert_eq!(https.status(&old).await, 200);
    stack.agent.rotate_x509();
    server.logged("identity updated").await;
    stack.agent.rotate_jwt_key();
    stack.agent.drop_old_jwt_key();
    until(async || https.status(&old).await == 401).await;
    assert_eq!(https.status(&stack.token(|_| ())).await, 200);
}

#[tokio::test]
async fn update_over_a_limit_is_an_error_with_both_numbers_d035() {
    let stack = Stack::new().await;
    let genuine = Genuine::of(&stack).await;
    let fake = Fake::new(&genuine);
    let (server, port) = fake.server(&[]).await;
    let https = stack.https(port);

    let mut many = genuine.jwt_bundles.clone();
    federate(&mut many.bundles, 10_001, &br#"{"keys":[]}"#.to_vec());
    fake.say_jwt_bundles(Ok(many));
    let line = server.logged("10002 JWT bundles").await;
    assert!(
        line.contains("ERROR") && line.contains("at most 10000"),
        "{line}"
    );
    assert_eq!(https.status(&stack.token(|_| ())).await, 200);

    let mut long = genuine.x509.clone();
    long.crl = vec![vec![0; 17 << 20]];
    fake.say_x509(Ok(long));
    let line = server.logged("16777216").await;
    assert!(line.contains("ERROR") && line.contains("17827"), "{line}");
    assert!(https.presented().await.is_some());
}

#[tokio::test]
async fn fault_of_a_federated_trust_domain_stays_there_w174() {
    let (stack, partner) = (Stack::new().await, partner().await);
    let mut genuine = Genuine::of(&stack).await;
    genuine.jwt_bundles =
        jwt_bundles(&[(OWN, stack.agent.jwks()), (PARTNER, partner.agent.jwks())]);
    let fake = Fake::new(&genuine);
    let allow = ["--allow", CLIENT_ID, "--allow", PARTNER_CALLER];
    let (server, port) = fake.server(&allow).await;
    let https = stack.https(port);
    let theirs = partner_token(&partner);
    assert_eq!(https.status(&theirs).await, 200);

    for (garbage, fault) in [
        ("", "it is empty"),
        ("{}", "it has no array of keys"),
        ("\u{0}garbage", "it is not a JSON object"),
    ] {
        let old = stack.token(|_| ());
        assert_eq!(https.status(&old).await, 200);
        stack.agent.rotate_jwt_key();
        stack.agent.drop_old_jwt_key();
        fake.say_jwt_bundles(Ok(jwt_bundles(&[
            (OWN, stack.agent.jwks()),
            (PARTNER, garbage.to_owned()),
        ])));
        until(async || https.status(&old).await == 401).await;
        assert_eq!(https.status(&stack.token(|_| ())).await, 200, "{fault}");
        assert_eq!(
            https.status(&theirs).await,
            200,
            "{fault}: the last good one"
        );
        let line = server.logged(fault).await;
        assert!(
            line.contains("ERROR") && line.contains("partner.example"),
            "{line}"
        );
    }

    // J168: a trust domain that the response leaves out is not trusted any more.
    fake.say_jwt_bundles(Ok(jwt_bundles(&[(OWN, stack.agent.jwks())])));
    until(async || https.status(&theirs).await == 401).await;
    // There is no last good bundle now. The fault is not the caller's.
    fake.say_jwt_bundles(Ok(jwt_bundles(&[
        (OWN, stack.agent.jwks()),
        (PARTNER, "{}".to_owned()),
    ])));
    until(async || https.status(&theirs).await == 503).await;
    server.logged("there is no earlier one").await;
}

#[tokio::test]
async fn fault_of_a_federated_x509_bundle_does_not_keep_the_own_svid_w174() {
    let stack = Stack::new().await;
    let mut genuine = Genuine::of(&stack).await;
    let bundle = genuine.x509.svids[0].bundle.clone();
    let federated = |bundle: &[u8]| [(PARTNER.to_owned(), bundle.to_vec())].into();
    genuine.x509.federated_bundles = federated(&bundle);
    let fake = Fake::new(&genuine);
    let identity = fake.identity().await;
    let partner = spiffe::TrustDomain::new(PARTNER).unwrap();
    for garbage in [&[] as &[u8], b"garbage", &bundle[..bundle.len() - 1]] {
        let before = identity.x509.svid().unwrap();
        stack.agent.rotate_x509();
        let mut next = Genuine::of(&stack).await.x509;
        next.federated_bundles = federated(garbage);
        fake.say_x509(Ok(next));
        until(async || identity.x509.svid().unwrap().serial() != before.serial()).await;
        let trusted = identity.x509.bundle_for_trust_domain(&partner);
        assert!(trusted.unwrap().is_some(), "the last good one");
        assert_eq!(*identity.readiness.borrow(), Readiness::Ready);
    }
    let mut next = Genuine::of(&stack).await.x509;
    next.federated_bundles = [].into();
    fake.say_x509(Ok(next));
    until(async || {
        let trusted = identity.x509.bundle_for_trust_domain(&partner);
        trusted.unwrap().is_none()
    })
    .await;
}

/// A revoked key must not stay in use because nothing usable comes in its place.
#[tokio::test]
async fn bundles_that_are_not_renewed_are_trusted_for_the_grace_only() {
    let stack = Stack::new().await;
    let genuine = Genuine::of(&stack).await;
    for (bad, text) in [
        (
            jwt_bundles(&[(OWN, "{}".to_owned())]),
            "it has no array of keys",
        ),
        (pb::JwtBundlesResponse::default(), "it has no JWT bundles"),
    ] {
        let fake = Fake::new(&genuine);
        let (server, port) = fake.server(&["--bundle-grace", "4s"]).await;
        let https = stack.https(port);
        let token = stack.token(|_| ());
        assert_eq!(https.status(&token).await, 200);
        let begun = Instant::now();
        fake.say_jwt_bundles(Ok(bad));
        server.logged(text).await;
        assert_eq!(https.status(&token).await, 200, "{text}: the last good one");
        until(async || https.status(&token).await == 503).await;
        assert!(begun.elapsed() >= Duration::from_secs(4), "{text}");
        server.logged("no usable bundles for too long").await;

        fake.say_jwt_bundles(Ok(genuine.jwt_bundles.clone()));
        until(async || https.status(&token).await == 200).await;
    }
}

#[tokio::test]
async fn readiness_shows_that_bundles_are_not_renewed() {
    let stack = Stack::new().await;
    let fake = Fake::new(&Genuine::of(&stack).await);
    let api = fake.workload_api(PATIENCE);
    let grace = Duration::from_secs(3);
    let mut identity = api.bundle_grace(grace).identity().await.unwrap();
    fake.say_jwt_bundles(Ok(pb::JwtBundlesResponse::default()));
    let is_refused = |now: &Readiness| {
        matches!(
            now,
            Readiness::Degraded {
                reason: Degradation::Refused,
                ..
            }
        )
    };
    let refused = becomes(&mut identity.readiness, is_refused).await;
    let left = refused.left(std::time::SystemTime::now());
    assert!(left.unwrap() <= grace, "{left:?}");
    let stale = Readiness::NotReady(Unready::Stale);
    becomes(&mut identity.readiness, |now| *now == stale).await;
    let own = stack.agent.trust_domain();
    assert!(identity.jwt.bundle_for_trust_domain(own).is_err());
    let x509 = identity.x509.bundle_for_trust_domain(own);
    assert!(x509.unwrap().is_some(), "the other stream works");
}

/// The best of several is taken, because other tests use the machine too.
#[tokio::test]
async fn new_key_is_in_use_within_100_ms_j167() {
    let stack = Stack::new().await;
    let fake = Fake::new(&Genuine::of(&stack).await);
    let identity = fake.identity().await;
    let own = stack.agent.trust_domain();
    let mut best = Duration::MAX;
    for _ in 0..5 {
        stack.agent.rotate_jwt_key();
        let next = Genuine::of(&stack).await.jwt_bundles;
        let keys = || {
            let bundle = identity.jwt.bundle_for_trust_domain(own).unwrap().unwrap();
            bundle.key_ids().count()
        };
        let before = keys();
        let begun = Instant::now();
        fake.say_jwt_bundles(Ok(next));
        until(async || keys() > before).await;
        best = best.min(begun.elapsed());
    }
    assert!(best < Duration::from_millis(100), "{best:?}");
}

/// A token in the cache stays there while only other trust domains' bundles change.
#[tokio::test]
async fn bundle_of_a_trust_domain_is_the_same_until_another_one_comes() {
    let stack = Stack::new().await;
    let genuine = Genuine::of(&stack).await;
    let fake = Fake::new(&genuine);
    let identity = fake.identity().await;
    let own = stack.agent.trust_domain();
    let bundle = || identity.jwt.bundle_for_trust_domain(own).unwrap().unwrap();
    let before = bundle();
    let other = json!({ "keys": [] }).to_string();
    let next = jwt_bundles(&[(OWN, stack.agent.jwks()), (PARTNER, other)]);
    fake.say_jwt_bundles(Ok(next));
    until(async || identity.jwt.bundles().unwrap().len() == 2).await;
    assert!(std::sync::Arc::ptr_eq(&before, &bundle()));
}
