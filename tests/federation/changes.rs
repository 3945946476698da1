use dev_agent::{EndpointMode, FederatedBundle};

use crate::{Domains, follow, partner};

const ALLOW: [&str; 2] = ["--allow", "spiffe://partner.example/*"];

#[tokio::test]
async fn bundle_that_arrives_late_takes_effect_without_a_restart_f017() {
    let domains = Domains::strangers().await;
    let server = domains.ours.server(&ALLOW).await;
    let token = domains.their_token();
    assert_eq!(domains.status(&server, &token).await, 401);
    server
        .logged(r#"no bundle found for trust domain "partner.example""#)
        .await;
    follow(&domains.ours.agent, &domains.theirs.agent);
    domains.until_status(&server, &token, 200).await;
}

#[tokio::test]
async fn bundle_that_becomes_empty_ends_trust_and_a_new_one_begins_it_again_f017() {
    let domains = Domains::federated().await;
    let server = domains.ours.server(&ALLOW).await;
    let token = domains.their_token();
    assert_eq!(domains.status(&server, &token).await, 200);
    let theirs = &domains.theirs.agent;
    theirs.set_endpoint_mode(EndpointMode::Empty).await.unwrap();
    domains.refresh().await;
    domains.until_status(&server, &token, 401).await;

    theirs
        .set_endpoint_mode(EndpointMode::Normal)
        .await
        .unwrap();
    let bundle = theirs.federation();
    domains.ours.agent.federate(bundle).unwrap();
    domains.until_status(&server, &token, 200).await;
}

#[tokio::test]
async fn keys_rotate_in_another_trust_domain_without_a_refusal_f017() {
    let domains = Domains::federated().await;
    let server = domains.ours.server(&ALLOW).await;
    let theirs = &domains.theirs.agent;
    let old = domains.their_token();
    theirs.prepare_jwt_key();
    domains.refresh().await;
    server
        .logged("JWT bundle of partner.example (keys added: ")
        .await;
    theirs.rotate_jwt_key();
    let new = domains.their_token();
    assert_eq!(domains.status(&server, &new).await, 200, "its first use");
    assert_eq!(domains.status(&server, &old).await, 200);

    theirs.drop_old_jwt_key();
    assert_eq!(domains.status(&server, &old).await, 200, "not fetched yet");
    domains.refresh().await;
    domains.until_status(&server, &old, 401).await;
    assert_eq!(domains.status(&server, &new).await, 200);
}

#[tokio::test]
async fn last_bundle_stays_in_use_while_the_endpoint_fails_f017() {
    let domains = Domains::federated().await;
    domains.refresh().await;
    let server = domains.ours.server(&ALLOW).await;
    let (ours, theirs) = (&domains.ours.agent, &domains.theirs.agent);
    let known = domains.their_token();
    theirs.set_endpoint_mode(EndpointMode::Stale).await.unwrap();
    theirs.rotate_jwt_key();
    let unknown = domains.their_token();
    domains.refresh().await;
    assert_eq!(domains.status(&server, &unknown).await, 401);
    for mode in [
        EndpointMode::Gone,
        EndpointMode::WrongCertificate,
        EndpointMode::Garbage,
        EndpointMode::OldSequence,
    ] {
        theirs.set_endpoint_mode(mode).await.unwrap();
        assert!(ours.refresh(&partner()).await.is_err(), "{mode:?}");
        assert_eq!(domains.status(&server, &known).await, 200, "{mode:?}");
        assert_eq!(domains.status(&server, &unknown).await, 401, "{mode:?}");
    }
    theirs
        .set_endpoint_mode(EndpointMode::Normal)
        .await
        .unwrap();
    domains.refresh().await;
    domains.until_status(&server, &unknown, 200).await;
}

#[tokio::test]
async fn callers_are_refused_once_the_relationship_has_ended_f014_f017() {
    let domains = Domains::federated().await;
    let server = domains.ours.server(&ALLOW).await;
    let token = domains.their_token();
    assert_eq!(domains.status(&server, &token).await, 200);
    domains.ours.agent.unfederate(&partner());
    domains.until_status(&server, &token, 401).await;
    follow(&domains.ours.agent, &domains.theirs.agent);
    domains.until_status(&server, &token, 200).await;
}

/// A bundle that was parsed keeps its number and its hint.
#[test]
fn bundle_has_its_sequence_number_and_hint_f006() {
    let document = r#"{"keys":[],"spiffe_sequence":7,"spiffe_refresh_hint":60}"#;
    let bundle = FederatedBundle::parse(partner(), document).unwrap();
    assert_eq!(bundle.sequence(), Some(7));
    assert_eq!(bundle.refresh_hint().unwrap().as_secs(), 60);
    for document in [
        r#"{"keys":[],"spiffe_sequence":-1}"#,
        r#"{"keys":[],"spiffe_sequence":"7"}"#,
        r#"{"keys":[],"spiffe_refresh_hint":1.5}"#,
    ] {
        let error = FederatedBundle::parse(partner(), document).unwrap_err();
        assert!(
            error.to_string().contains("is not a whole number"),
            "{error}"
        );
    }
}
