use std::time::Duration;

use dev_agent::{
    EndpointIdentity, EndpointMode, Partner, PartnerProfile, PartnerState, PartnerStatus,
};
use spiffe::TrustDomain;

use crate::support::{TestAgent, soon, web_certificate};

fn domain() -> TrustDomain {
    TrustDomain::new("b.test").unwrap()
}

/// Returns the profile `https_spiffe` with the current bundle of `agent`.
fn spiffe(agent: &TestAgent) -> PartnerProfile {
    PartnerProfile::HttpsSpiffe {
        id: None,
        bundle: Some(agent.federation().document().to_owned()),
    }
}

/// Starts the agent of `a.test`, which fetches the bundle of `b`.
async fn following(b: &TestAgent, profile: PartnerProfile) -> TestAgent {
    let partner = Partner::new(domain(), &b.url(), profile).unwrap();
    TestAgent::start_with(&["spiffe://a.test/x=unix:uid:{uid}"], |config| {
        config.partners = vec![partner];
    })
    .await
}

fn status(agent: &TestAgent) -> PartnerStatus {
    agent.status().partners.remove(0)
}

async fn refusal(agent: &TestAgent) -> String {
    agent.refresh(&domain()).await.unwrap_err().to_string()
}

/// Returns the JWT keys that workloads of `a` have for `b.test`.
async fn jwks(a: &TestAgent) -> String {
    let bundles = a.jwt_bundle_stream().await.next().await.bundles;
    String::from_utf8(bundles["spiffe://b.test"].clone()).unwrap()
}

#[tokio::test]
async fn bundle_is_fetched_again_by_the_refresh_hint_f005() {
    let b = TestAgent::with_endpoint(|endpoint| {
        endpoint.refresh_hint = Duration::from_secs(1);
    })
    .await;
    let a = following(&b, spiffe(&b)).await;
    let mut bundles = a.jwt_bundle_stream().await;
    b.rotate_jwt_key();
    let wanted = b.jwks().into_bytes();
    bundles
        .wait_for(|message| message.bundles["spiffe://b.test"] == wanted)
        .await;
    b.drop_old_jwt_key();
    let wanted = b.jwks().into_bytes();
    bundles
        .wait_for(|message| message.bundles["spiffe://b.test"] == wanted)
        .await;
    assert_eq!(status(&a).refresh_hint, 1);
    assert_eq!(status(&a).state, PartnerState::Current);
}

#[tokio::test]
async fn endpoint_is_verified_with_the_last_bundle_through_rotations_f009() {
    let b = TestAgent::with_endpoint(|_| ()).await;
    let a = following(&b, spiffe(&b)).await;
    for _ in 0..2 {
        b.prepare_ca();
        a.refresh(&domain()).await.unwrap();
        b.rotate_ca();
        b.drop_old_ca();
        let sequence = a.refresh(&domain()).await.unwrap();
        assert_eq!(sequence, Some(b.status().bundle_endpoint.unwrap().sequence));
    }
    // A CA that was not published before it signs is not believed.
    b.rotate_ca();
    let error = refusal(&a).await;
    assert!(error.contains("UnknownIssuer"), "{error}");
}

/// "F6": an older sequence; "F9": another certificate or identity.
#[tokio::test]
async fn endpoint_that_misbehaves_changes_nothing_and_is_reported_f006_f009() {
    let b = TestAgent::with_endpoint(|_| ()).await;
    let a = following(&b, spiffe(&b)).await;
    a.refresh(&domain()).await.unwrap();
    let good = jwks(&a).await;
    b.rotate_jwt_key();
    for (mode, reason) in [
        (
            EndpointMode::OldSequence,
            "its sequence number 1 is older than",
        ),
        (EndpointMode::Garbage, "the document is not JSON"),
        (EndpointMode::WrongCertificate, "UnknownIssuer"),
        (
            EndpointMode::WrongIdentity,
            "it is spiffe://b.test/another and not spiffe://b.test/spire/server",
        ),
        (EndpointMode::NotFound, "it answered 404"),
        (EndpointMode::Gone, "cannot connect: Connection refused"),
    ] {
        b.set_endpoint_mode(mode).await.unwrap();
        let error = refusal(&a).await;
        assert!(error.contains(reason), "{mode:?}: {error}");
        assert_eq!(jwks(&a).await, good, "{mode:?}");
        let status = status(&a);
        assert_eq!(status.state, PartnerState::Failing, "{mode:?}");
        assert!(status.failures > 0 && status.error.unwrap().contains(reason));
        let text = a.status().to_string();
        assert!(text.contains(reason) && text.contains("failed "), "{text}");
    }
    b.set_endpoint_mode(EndpointMode::Stale).await.unwrap();
    a.refresh(&domain()).await.unwrap();
    let stale = jwks(&a).await;
    b.drop_old_jwt_key();
    a.refresh(&domain()).await.unwrap();
    assert_eq!(jwks(&a).await, stale);

    b.set_endpoint_mode(EndpointMode::Normal).await.unwrap();
    a.refresh(&domain()).await.unwrap();
    assert_eq!(jwks(&a).await, b.jwks());
    let status = status(&a);
    assert_eq!((status.state, status.failures), (PartnerState::Current, 0));
}

#[tokio::test]
async fn empty_bundle_takes_all_keys_away_f013() {
    let b = TestAgent::with_endpoint(|_| ()).await;
    let a = following(&b, spiffe(&b)).await;
    a.refresh(&domain()).await.unwrap();
    b.set_endpoint_mode(EndpointMode::Empty).await.unwrap();
    a.refresh(&domain()).await.unwrap();
    assert_eq!(jwks(&a).await, r#"{"keys":[]}"#);
    b.set_endpoint_mode(EndpointMode::Normal).await.unwrap();
    let error = refusal(&a).await;
    assert!(
        error.contains("no X.509 bundle for trust domain b.test"),
        "{error}"
    );
    // The operator gives a new bundle, and the fetches succeed again (Federation §4.2).
    a.federate(b.federation()).unwrap();
    a.refresh(&domain()).await.unwrap();
    assert_eq!(jwks(&a).await, b.jwks());
}

#[tokio::test]
async fn endpoint_of_the_web_profile_is_verified_by_its_name_f009() {
    let (certificate, ca, _) = web_certificate();
    let b = TestAgent::with_endpoint(|endpoint| {
        endpoint.identity = EndpointIdentity::Web(certificate);
    })
    .await;
    let web = |ca: &str| PartnerProfile::HttpsWeb {
        ca: Some(ca.to_owned()),
    };
    let a = following(&b, web(&ca)).await;
    a.refresh(&domain()).await.unwrap();
    assert_eq!(jwks(&a).await, b.jwks());

    let elsewhere = b.url().replace("127.0.0.1", "127.0.0.2");
    let by_other_name = b.url().replace("127.0.0.1", "[::ffff:127.0.0.1]");
    let (_, other_ca, _) = web_certificate();
    for (url, ca, reason) in [
        (elsewhere, &ca, "cannot connect"),
        (b.url(), &other_ca, "UnknownIssuer"),
        (by_other_name, &ca, "not valid for name"),
    ] {
        let partner = Partner::new(domain(), &url, web(ca)).unwrap();
        a.federate_with(partner).unwrap();
        let error = refusal(&a).await;
        assert!(error.contains(reason), "{error}");
    }
}

/// "F14"
#[tokio::test]
async fn relationship_that_ended_is_begun_again() {
    let b = TestAgent::with_endpoint(|_| ()).await;
    let a = following(&b, spiffe(&b)).await;
    a.refresh(&domain()).await.unwrap();
    assert!(a.unfederate(&domain()));
    assert!(!a.unfederate(&domain()));
    assert_eq!(a.status().partners, []);
    assert_eq!(a.status().federated, [""; 0]);
    let error = refusal(&a).await;
    assert!(
        error.contains("the agent does not fetch its bundle"),
        "{error}"
    );

    let without_bundle = PartnerProfile::HttpsSpiffe {
        id: None,
        bundle: None,
    };
    let partner = Partner::new(domain(), &b.url(), without_bundle).unwrap();
    let error = a.federate_with(partner).unwrap_err().to_string();
    assert!(error.contains("add bundle=FILE"), "{error}");
    let partner = Partner::new(domain(), &b.url(), spiffe(&b)).unwrap();
    a.federate_with(partner).unwrap();
    // A relationship that is refused leaves the one before.
    let c = TestAgent::start(&["spiffe://c.test/z=unix:uid:{uid}"]).await;
    a.federate(c.federation()).unwrap();
    let error = a.federate_with(Partner::new(domain(), &b.url(), spiffe(&c)).unwrap());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("another trust domain's too"), "{error}");
    assert_eq!(status(&a).trust_domain, "spiffe://b.test");
    soon(a.refresh(&domain())).await.unwrap();
    assert_eq!(
        jwks(&a).await,
        b.jwks(),
        "the bundle of the first fetch is used already"
    );
    soon(a.refresh(&domain())).await.unwrap();
}

/// "F15": an endpoint of `b.test` that serves the bundle of `c.test`.
#[tokio::test]
async fn endpoint_of_a_third_trust_domain_is_verified_by_that_domains_bundle() {
    let b = TestAgent::with_endpoint(|_| ()).await;
    let c = TrustDomain::new("c.test").unwrap();
    let profile = || PartnerProfile::HttpsSpiffe {
        id: Some("spiffe://b.test/spire/server".to_owned()),
        bundle: None,
    };
    let partner = || Partner::new(c.clone(), &b.url(), profile()).unwrap();
    let a = TestAgent::start(&["spiffe://a.test/x=unix:uid:{uid}"]).await;
    let error = a.federate_with(partner()).unwrap_err().to_string();
    assert!(error.contains("no bundle of 'b.test'"), "{error}");

    a.federate(b.federation()).unwrap();
    a.federate_with(partner()).unwrap();
    // The keys are those of b.test, and no two trust domains may share a key.
    let error = a.refresh(&c).await.unwrap_err().to_string();
    assert!(error.contains("another trust domain's too"), "{error}");
}
