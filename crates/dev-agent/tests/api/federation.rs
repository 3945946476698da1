use std::collections::HashSet;

use dev_agent::FederatedBundle;
use spiffe::TrustDomain;
use tonic::Code;

use crate::support::{TestAgent, assert_status};

#[tokio::test]
async fn two_federated_trust_domains_get_each_others_bundles_w083() {
    let a = TestAgent::start(&["spiffe://a.test/x=unix:uid:{uid}"]).await;
    let b = TestAgent::start_with(&["spiffe://b.test/y=unix:uid:{uid}"], |config| {
        config.federated = vec![a.federation()];
    })
    .await;
    let mut svids = a.x509_stream().await;
    let first = svids.next().await;
    assert!(first.federated_bundles.is_empty());
    a.set_federated(vec![b.federation()]).unwrap();

    let svid = svids.next().await;
    let theirs = b.x509_stream().await.next().await;
    assert_eq!(svid.svids, first.svids, "W65: the full set");
    assert_eq!(svid.federated_bundles.len(), 1, "W83: not the own one");
    assert_eq!(
        svid.federated_bundles["spiffe://b.test"],
        theirs.svids[0].bundle
    );
    assert_eq!(
        theirs.federated_bundles["spiffe://a.test"],
        svid.svids[0].bundle
    );

    let bundles = a.x509_bundle_stream().await.next().await.bundles;
    let domains: HashSet<_> = bundles.keys().map(String::as_str).collect();
    assert_eq!(
        domains,
        HashSet::from(["spiffe://a.test", "spiffe://b.test"]),
        "W95"
    );
    let bundles = a.jwt_bundle_stream().await.next().await.bundles;
    assert_eq!(bundles["spiffe://b.test"], b.jwks().into_bytes());

    // "W68"
    a.set_federated(Vec::new()).unwrap();
    assert!(svids.next().await.federated_bundles.is_empty());
}

#[tokio::test]
async fn a_bundle_without_certificates_is_absent_and_one_without_keys_is_empty_w097() {
    let a = TestAgent::start(&["spiffe://a.test/x=unix:uid:{uid}"]).await;
    let empty = FederatedBundle::parse(TrustDomain::new("b.test").unwrap(), r#"{"keys":[]}"#);
    a.set_federated(vec![empty.unwrap()]).unwrap();
    let bundles = a.x509_bundle_stream().await.next().await.bundles;
    assert_eq!(bundles.keys().collect::<Vec<_>>(), ["spiffe://a.test"]);
    let bundles = a.jwt_bundle_stream().await.next().await.bundles;
    assert_eq!(bundles["spiffe://b.test"], br#"{"keys":[]}"#, "W121");
    for document in bundles.values() {
        let document: serde_json::Value = serde_json::from_slice(document).unwrap();
        let members: Vec<_> = document.as_object().unwrap().keys().collect();
        assert_eq!(members, ["keys"], "W116, W122");
    }
}

#[tokio::test]
async fn a_token_of_another_trust_domain_needs_its_bundle_and_loses_private_claims_w134() {
    let a = TestAgent::start(&["spiffe://a.test/x=unix:uid:{uid}"]).await;
    let b = TestAgent::start(&["spiffe://b.test/y=unix:uid:{uid}"]).await;
    let mut claims = b.jwt_claims("spiffe://b.test/y", &["x"]);
    claims.payload["admin"] = true.into();
    let token = b.mint_jwt(&claims);

    // "W135"
    let status = a.validate("x", &token).await.unwrap_err();
    assert_status(&status, Code::InvalidArgument, "the JWT-SVID is not valid");
    a.set_federated(vec![b.federation()]).unwrap();
    let answer = a.validate("x", &token).await.unwrap();
    let fields = answer.claims.unwrap().fields;
    let names: Vec<_> = fields.keys().map(String::as_str).collect();
    assert_eq!(names, ["aud", "exp", "iat", "sub"]);

    // Its keys verify only tokens of its own domain.
    claims.payload["sub"] = "spiffe://a.test/x".into();
    a.validate("x", &b.mint_jwt(&claims)).await.unwrap_err();
}

#[tokio::test]
async fn refused_bundles_change_nothing_w145() {
    let a = TestAgent::start(&["spiffe://a.test/x=unix:uid:{uid}"]).await;
    let own = a.federation();
    let error = a.set_federated(vec![own]).unwrap_err().to_string();
    assert!(error.contains("the agent's own trust domain"), "{error}");
    assert!(
        a.x509_stream()
            .await
            .next()
            .await
            .federated_bundles
            .is_empty()
    );
}
