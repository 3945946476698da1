use dev_agent::pb;
use rcgen::PublicKeyData;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::support::TestAgent;

fn certificates(mut der: &[u8]) -> Vec<X509Certificate<'_>> {
    let mut certificates = Vec::new();
    while !der.is_empty() {
        let (rest, certificate) = X509Certificate::from_der(der).unwrap();
        certificates.push(certificate);
        der = rest;
    }
    certificates
}

fn ids(response: &pb::X509svidResponse) -> Vec<&str> {
    response.svids.iter().map(|svid| &*svid.spiffe_id).collect()
}

#[tokio::test]
async fn an_answer_has_certificate_key_bundle_and_id_of_the_same_identity_w077() {
    let agent = TestAgent::start(&[
        "spiffe://example.org/b=unix:uid:{uid};hint=main",
        "spiffe://example.org/a=unix:uid:{uid}",
        "spiffe://example.org/c=unix:uid:{uid},unix:path:/nowhere",
    ])
    .await;
    // "W64": the first answer comes at once, though nothing changes.
    let response = agent.x509_stream().await.next().await;
    assert_eq!(
        ids(&response),
        ["spiffe://example.org/b", "spiffe://example.org/a"],
        "W54: in the order of the entries"
    );
    // "W85"
    assert!(response.crl.is_empty() && response.federated_bundles.is_empty());
    assert_eq!(response.svids[0].hint, "main");
    for svid in &response.svids {
        let chain = certificates(&svid.x509_svid);
        let [leaf] = &chain[..] else {
            panic!("W78: the chain is not of one certificate");
        };
        let names = &leaf
            .subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .general_names;
        assert_eq!(names[..], [GeneralName::URI(&svid.spiffe_id)], "W81");

        let key = rcgen::KeyPair::try_from(&svid.x509_svid_key[..]).unwrap();
        assert_eq!(key.subject_public_key_info(), leaf.public_key().raw, "W79");
        // PKCS#8 has version 0 and an algorithm where SEC 1 has version 1 and the key.
        let pkcs8 = [0x02, 0x01, 0x00, 0x30];
        assert!(
            svid.x509_svid_key[2..]
                .windows(4)
                .take(2)
                .any(|w| w == pkcs8),
            "W80"
        );

        let roots = certificates(&svid.bundle);
        assert_eq!(roots.len(), 1);
        assert_eq!(roots[0].subject(), leaf.issuer());
    }
    assert_ne!(
        response.svids[0].x509_svid_key,
        response.svids[1].x509_svid_key
    );
}

#[tokio::test]
async fn a_hint_is_given_to_one_svid_only_w086() {
    let agent = TestAgent::start(&[
        "spiffe://example.org/a=unix:uid:{uid};hint=h",
        "spiffe://example.org/b=unix:uid:{uid};hint=h",
        "spiffe://example.org/a=unix:uid:{uid};hint=other",
    ])
    .await;
    let response = agent.x509_stream().await.next().await;
    let hints: Vec<_> = response.svids.iter().map(|svid| &*svid.hint).collect();
    assert_eq!(
        hints,
        ["h", "", "other"],
        "W55: entries of one ID have an SVID each"
    );
    let svids = agent.fetch_jwt(&["x"], "").await.unwrap();
    let hints: Vec<_> = svids.iter().map(|svid| &*svid.hint).collect();
    assert_eq!(hints, ["h", "", "other"]);
}

#[tokio::test]
async fn two_callers_of_one_entry_share_its_svid_w092() {
    let agent = TestAgent::start(&["spiffe://example.org/a=unix:uid:{uid}"]).await;
    let one = agent.x509_stream().await.next().await;
    assert_eq!(one, agent.x509_stream().await.next().await);
}

#[tokio::test]
async fn a_rotated_svid_is_pushed_and_bundle_streams_stay_silent_w070() {
    let agent = TestAgent::start(&["spiffe://example.org/a=unix:uid:{uid}"]).await;
    let mut svids = agent.x509_stream().await;
    let mut bundles = agent.x509_bundle_stream().await;
    let first = svids.next().await;
    bundles.next().await;

    agent.rotate_x509();
    let second = svids.next().await;
    assert_ne!(first.svids[0].x509_svid, second.svids[0].x509_svid);
    assert_ne!(first.svids[0].x509_svid_key, second.svids[0].x509_svid_key);
    assert_eq!(first.svids[0].bundle, second.svids[0].bundle);
    assert!(bundles.is_silent().await);
}

#[tokio::test]
async fn an_old_ca_stays_in_the_bundle_until_it_is_dropped_w082() {
    let agent = TestAgent::start(&["spiffe://example.org/a=unix:uid:{uid}"]).await;
    let mut bundles = agent.x509_bundle_stream().await;
    let of_domain = |response: pb::X509BundlesResponse| {
        assert_eq!(response.bundles.len(), 1);
        response.bundles["spiffe://example.org"].clone()
    };
    let old = of_domain(bundles.next().await);

    agent.rotate_ca();
    let both = of_domain(
        bundles
            .wait_for(|m| m.bundles["spiffe://example.org"].ends_with(&old))
            .await,
    );
    let roots = certificates(&both);
    assert_eq!(roots.len(), 2);
    let svid = agent.x509_stream().await.next().await.svids.remove(0);
    assert_eq!(
        certificates(&svid.x509_svid)[0].issuer(),
        roots[0].subject()
    );
    assert_eq!(svid.bundle, both);
    assert_eq!(
        agent.x509_bundle_pem().matches("BEGIN CERTIFICATE").count(),
        2
    );

    agent.drop_old_ca();
    let new = of_domain(
        bundles
            .wait_for(|m| !m.bundles["spiffe://example.org"].ends_with(&old))
            .await,
    );
    assert_eq!(certificates(&new).len(), 1);
    assert!(both.starts_with(&new));
}

#[tokio::test]
async fn a_prepared_ca_is_published_before_it_is_used_w142() {
    let agent = TestAgent::start(&["spiffe://example.org/a=unix:uid:{uid}"]).await;
    let mut svids = agent.x509_stream().await;
    let first = svids.next().await.svids.remove(0);
    agent.prepare_ca();
    let prepared = svids.next().await.svids.remove(0);
    assert_eq!(prepared.x509_svid, first.x509_svid);
    let roots = certificates(&prepared.bundle);
    assert_eq!(roots.len(), 2);

    agent.rotate_ca();
    let rotated = svids.next().await.svids.remove(0);
    let chain = certificates(&rotated.x509_svid);
    assert_eq!(chain[0].issuer(), roots[1].subject());
    assert_eq!(certificates(&rotated.bundle).len(), 2);
}

#[tokio::test]
async fn many_changes_are_one_message_to_a_slow_reader_w071() {
    let agent = TestAgent::start(&["spiffe://example.org/a=unix:uid:{uid}"]).await;
    let mut svids = agent.x509_stream().await;
    let other = TestAgent::start(&["spiffe://b.test/y=unix:uid:{uid}"]).await;
    for index in 0..1000 {
        match index % 2 {
            0 => agent.set_federated(vec![other.federation()]).unwrap(),
            _ => agent.set_federated(Vec::new()).unwrap(),
        }
    }
    agent.rotate_x509();
    let latest = agent.x509_stream().await.next().await;
    let mut messages = 1;
    while svids.next().await != latest {
        messages += 1;
    }
    assert!(messages < 10, "{messages} messages");
}

#[tokio::test]
async fn short_lived_svids_are_renewed_in_time_and_old_cas_are_dropped_w140() {
    let unit = std::time::Duration::from_secs(2);
    let agent = TestAgent::start_with(&["spiffe://example.org/a=unix:uid:{uid}"], |config| {
        config.x509_ttl = 2 * unit;
        config.rotate_ca_every = Some(4 * unit);
        config.rotate_jwt_key_every = Some(2 * unit);
    })
    .await;
    // "W69", "W76"
    let mut svids = agent.x509_stream().await;
    let mut seen = 0;
    // The next CA is in the bundle before a leaf is under it.
    let prepared = loop {
        let svid = svids.next().await.svids.remove(0);
        let leaf = &certificates(&svid.x509_svid)[0];
        assert!(leaf.validity().is_valid(), "an expired SVID was sent");
        seen += 1;
        if certificates(&svid.bundle).len() == 2 {
            break svid;
        }
    };
    assert!(seen > 2, "renewed before the CA was");
    let leaf_issuer = |svid: &pb::X509svid| certificates(&svid.x509_svid)[0].issuer().to_string();
    let old = leaf_issuer(&prepared);
    assert_eq!(old, certificates(&prepared.bundle)[0].subject().to_string());
    let next = svids.wait_for(|m| leaf_issuer(&m.svids[0]) != old).await;
    assert_eq!(certificates(&next.svids[0].bundle).len(), 2);
}
