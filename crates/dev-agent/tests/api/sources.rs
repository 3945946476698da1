use std::time::Duration;

use spiffe::{
    JwtSource, JwtSourceBuilder, JwtSvid, SpiffeId, TrustDomain, WorkloadApiClient,
    WorkloadApiError, X509Source, X509SourceBuilder, bundle::BundleSource,
};

use crate::support::{TestAgent, soon};

const ENTRY: &str = "spiffe://example.org/a=unix:uid:{uid}";
const MIN_BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_millis(50);

fn id() -> SpiffeId {
    "spiffe://example.org/a".parse().unwrap()
}

async fn x509_source(agent: &TestAgent) -> X509Source {
    let source = X509SourceBuilder::new()
        .endpoint(agent.endpoint())
        .reconnect_backoff(MIN_BACKOFF, MAX_BACKOFF)
        .build();
    soon(source).await.unwrap()
}

async fn jwt_source(agent: &TestAgent) -> JwtSource {
    let source = JwtSourceBuilder::new()
        .endpoint(agent.endpoint())
        .reconnect_backoff(MIN_BACKOFF, MAX_BACKOFF)
        .build();
    soon(source).await.unwrap()
}

async fn wait_for_x509(source: &X509Source, wanted: impl Fn(&X509Source) -> bool) {
    let mut updates = source.updated();
    while !wanted(source) {
        soon(updates.changed()).await.unwrap();
    }
}

async fn wait_for_jwt(source: &JwtSource, wanted: impl Fn(&JwtSource) -> bool) {
    let mut updates = source.updated();
    while !wanted(source) {
        soon(updates.changed()).await.unwrap();
    }
}

#[tokio::test]
async fn the_spiffe_client_accepts_every_answer_w095() {
    let agent = TestAgent::start(&[ENTRY, "spiffe://example.org/b=unix:uid:{uid};hint=h"]).await;
    let client = WorkloadApiClient::connect_to(agent.endpoint())
        .await
        .unwrap();
    assert_eq!(client.fetch_x509_svid().await.unwrap().spiffe_id(), &id());
    assert_eq!(client.fetch_all_x509_svids().await.unwrap().len(), 2);
    assert_eq!(client.fetch_x509_bundles().await.unwrap().len(), 1);
    assert_eq!(client.fetch_jwt_bundles().await.unwrap().len(), 1);
    let context = client.fetch_x509_context().await.unwrap();
    assert_eq!(context.default_svid().unwrap().spiffe_id(), &id());

    let svid = client.fetch_jwt_svid(["x"], Some(&id())).await.unwrap();
    assert_eq!(svid.spiffe_id(), &id());
    let hinted = client
        .fetch_jwt_svid_by_hint(["x"], None, "h")
        .await
        .unwrap();
    assert_eq!(hinted.spiffe_id().path(), "/b");
    let answer = client.validate_jwt_token("x", svid.token()).await.unwrap();
    assert_eq!(answer.spiffe_id(), &id());
    client
        .validate_jwt_token("y", svid.token())
        .await
        .unwrap_err();
    agent.withdraw(&id());
    agent.withdraw(&"spiffe://example.org/b".parse().unwrap());
    let refused = client.fetch_x509_svid().await.unwrap_err();
    assert!(matches!(refused, WorkloadApiError::NoIdentityIssued), "W26");
}

#[tokio::test]
async fn a_source_accepts_the_most_entries_of_an_agent_w094() {
    let entries: Vec<_> = (0..100)
        .map(|index| format!("spiffe://example.org/{index}=unix:uid:{{uid}}"))
        .collect();
    let entries: Vec<_> = entries.iter().map(String::as_str).collect();
    let agent = TestAgent::start(&entries).await;
    let client = WorkloadApiClient::connect_to(agent.endpoint())
        .await
        .unwrap();
    assert_eq!(client.fetch_all_x509_svids().await.unwrap().len(), 100);
    x509_source(&agent).await;
}

#[tokio::test]
async fn an_x509_source_follows_rotation_withdrawal_and_restoration_w067() {
    let agent = TestAgent::start(&[ENTRY]).await;
    let source = x509_source(&agent).await;
    let first = source.svid().unwrap();
    assert_eq!(first.spiffe_id(), &id());

    agent.rotate_x509();
    wait_for_x509(&source, |s| s.svid().unwrap().leaf() != first.leaf()).await;
    agent.rotate_ca();
    let own = agent.trust_domain().clone();
    let roots = |s: &X509Source, domain: &TrustDomain| {
        let bundle = s.try_bundle_for_trust_domain(domain);
        bundle.map_or(0, |bundle| bundle.authorities().len())
    };
    wait_for_x509(&source, |s| roots(s, &own) == 2).await;
    agent.drop_old_ca();
    wait_for_x509(&source, |s| roots(s, &own) == 1).await;

    agent.withdraw(&id());
    wait_for_x509(&source, |s| s.svid().is_err()).await;
    agent.restore(&id());
    wait_for_x509(&source, |s| s.svid().is_ok()).await;

    let other = TestAgent::start(&["spiffe://b.test/y=unix:uid:{uid}"]).await;
    agent.set_federated(vec![other.federation()]).unwrap();
    wait_for_x509(&source, |s| roots(s, other.trust_domain()) == 1).await;
}

#[tokio::test]
async fn an_x509_source_follows_a_restarted_agent_w012() {
    let agent = TestAgent::start(&[ENTRY]).await;
    let source = x509_source(&agent).await;
    let first = source.svid().unwrap();
    let bundle = |s: &X509Source| s.bundle_set().unwrap().get(agent.trust_domain());
    let old = bundle(&source);

    agent.stop().await;
    assert_eq!(source.svid().unwrap(), first);
    agent.restart_with_new_keys().await.unwrap();
    wait_for_x509(&source, |s| bundle(s) != old).await;
    assert_ne!(source.svid().unwrap(), first);
}

#[tokio::test]
async fn a_jwt_source_follows_rotation_and_withdrawal_w117() {
    let agent = TestAgent::start(&[ENTRY]).await;
    let source = jwt_source(&agent).await;
    let first = soon(source.fetch_jwt_svid(["x"])).await.unwrap();
    JwtSvid::parse_and_validate(first.token(), &source, &["x"]).unwrap();

    agent.rotate_jwt_key();
    let second = soon(source.fetch_jwt_svid(["x"])).await.unwrap();
    assert_ne!(first.key_id(), second.key_id());
    let knows = |s: &JwtSource, kid: &str| {
        let bundle = s.bundle_for_trust_domain(agent.trust_domain()).unwrap();
        bundle.is_some_and(|bundle| bundle.find_jwt_authority(kid).is_some())
    };
    wait_for_jwt(&source, |s| knows(s, second.key_id())).await;
    for token in [first.token(), second.token()] {
        JwtSvid::parse_and_validate(token, &source, &["x"]).unwrap();
    }
    agent.drop_old_jwt_key();
    wait_for_jwt(&source, |s| !knows(s, first.key_id())).await;
    JwtSvid::parse_and_validate(first.token(), &source, &["x"]).unwrap_err();

    agent.withdraw(&id());
    wait_for_jwt(&source, |s| s.bundle_set().is_err()).await;
    agent.restore(&id());
    wait_for_jwt(&source, |s| s.bundle_set().is_ok()).await;
}
