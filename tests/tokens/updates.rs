use std::time::Duration;

use common::workload::Identity;
use dev_agent::pb;
use harness::{
    PATIENCE, SERVER_ID, Stack,
    fake_workload_api::{Fake, Genuine},
};
use serde_json::{Value, json};
use spiffe::{BundleSource, TrustDomain};

const OWN: &str = "spiffe://example.org";

fn message(trust_domain: &str, jwks: &Value) -> pb::JwtBundlesResponse {
    let bundles = [(trust_domain.to_owned(), jwks.to_string().into_bytes())];
    pb::JwtBundlesResponse {
        bundles: bundles.into_iter().collect(),
    }
}

/// Returns the keys of the agent's JWK Set.
fn keys(stack: &Stack) -> Vec<Value> {
    let jwks: Value = serde_json::from_str(&stack.agent.jwks()).unwrap();
    jwks["keys"].as_array().unwrap().clone()
}

/// Each message is logged, and the bundles before it stay in use.
#[tokio::test]
async fn unusable_bundle_changes_nothing_and_is_logged_j163() {
    let stack = Stack::new().await;
    let genuine = Genuine::of(&stack).await;
    let nameless = || {
        let mut keys = keys(&stack);
        keys.push(json!({ "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA" }));
        json!({ "keys": keys })
    };
    for (number, update, text) in [
        (
            "J163, D20: no keys",
            message(OWN, &json!({})),
            "it has no array of keys; continuing with the last good one",
        ),
        (
            "J163, D20: keys null",
            message(OWN, &json!({ "keys": null })),
            "it has no array of keys",
        ),
        (
            "J164, D21: a key without kid",
            message(OWN, &nameless()),
            "a key that cannot be used: its kid is invalid",
        ),
        (
            "D22: no bundles",
            pb::JwtBundlesResponse::default(),
            "it has no JWT bundles; continuing with the one before",
        ),
    ] {
        let fake = Fake::new(&genuine);
        let (server, port) = fake.server(&[]).await;
        let https = stack.https(port);
        let token = stack.token(|_| ());
        assert_eq!(https.status(&token).await, 200, "{number}");

        fake.say_jwt_bundles(Ok(update));
        server.logged(text).await;
        assert_eq!(
            https.status(&token).await,
            200,
            "{number}: the old bundles are kept"
        );
    }
}

/// "D19": a key of an unknown type does not prevent the use of the others.
#[tokio::test]
async fn unknown_keys_do_not_spoil_good_ones_j165() {
    let stack = Stack::new().await;
    let mut genuine = Genuine::of(&stack).await;
    let mut keys = keys(&stack);
    keys.push(json!({ "kty": "AKP", "kid": "1", "pub": "AA" }));
    keys.push(json!({ "kty": "EC", "crv": "secp256k1", "kid": "2", "x": "AA", "y": "AA" }));
    genuine.jwt_bundles = message(OWN, &json!({ "keys": keys }));
    let fake = Fake::new(&genuine);
    let (_server, port) = fake.server(&[]).await;
    assert_eq!(stack.https(port).status(&stack.token(|_| ())).await, 200);
}

async fn identity(
    message: impl FnOnce(&mut pb::X509svidResponse),
    stack: &Stack,
    patience: Duration,
) -> Result<Identity, String> {
    let mut genuine = Genuine::of(stack).await;
    message(&mut genuine.x509);
    let fake = Fake::new(&genuine);
    let identity = fake.workload_api(patience).identity().await;
    identity.map_err(|error| error.to_string())
}

fn roots(identity: &Identity, trust_domain: &str) -> Option<Vec<Vec<u8>>> {
    let trust_domain = TrustDomain::new(trust_domain).unwrap();
    let bundle = identity
        .x509
        .bundle_for_trust_domain(&trust_domain)
        .unwrap()?;
    Some(
        bundle
            .authorities()
            .iter()
            .map(|root| root.as_bytes().to_vec())
            .collect(),
    )
}

#[tokio::test]
async fn x509_bundle_belongs_to_the_trust_domain_of_the_svid_d023() {
    let stack = Stack::new().await;
    let genuine = Genuine::of(&stack).await;
    let ours = vec![genuine.x509.svids[0].bundle.clone()];

    let quick = Duration::from_secs(3);
    let claimed = identity(
        |message| message.svids[0].spiffe_id = "spiffe://other.example/x".into(),
        &stack,
        quick,
    )
    .await;
    let error = claimed.unwrap_err();
    assert!(
        error.contains("its certificate is for spiffe://example.org/server, and not for"),
        "D23: {error}"
    );

    let other = Stack::with(SERVER_ID, |_| ()).await;
    let theirs = Genuine::of(&other).await.x509.svids[0].bundle.clone();
    let federated = |message: &mut pb::X509svidResponse| {
        message.federated_bundles.insert(OWN.into(), theirs.clone());
    };
    let identity = identity(federated, &stack, PATIENCE).await.unwrap();
    assert_eq!(
        roots(&identity, "example.org"),
        Some(ours),
        "D24: no federated bundle takes the place of the own one"
    );
}
