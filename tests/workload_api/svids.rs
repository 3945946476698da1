use std::time::Duration;

use common::workload::{Degradation, Readiness};
use dev_agent::pb;
use harness::{
    SERVER_ID, Stack,
    fake_workload_api::{Call, Fake, Genuine},
    wait::{becomes, until},
};

use crate::leaf;

fn is_refused(readiness: &Readiness) -> bool {
    let refused = Degradation::Refused;
    matches!(readiness, Readiness::Degraded { reason, .. } if *reason == refused)
}

#[tokio::test]
async fn svid_that_cannot_be_used_changes_nothing_until_a_good_one_comes_w174() {
    let stack = Stack::new().await;
    let other = Stack::new().await;
    let other = Genuine::of(&other).await.x509.svids.remove(0);
    let expired = expired_svid().await;
    let genuine = Genuine::of(&stack).await;
    stack.agent.rotate_x509();
    let next = Genuine::of(&stack).await.x509;
    let with = |change: &dyn Fn(&mut Vec<pb::X509svid>)| {
        let mut message = next.clone();
        change(&mut message.svids);
        message
    };
    let rows: [(&str, pb::X509svidResponse); 11] = [
        ("W174 no identity", with(&Vec::clear)),
        (
            "W174 a broken certificate",
            with(&|svids| svids[0].x509_svid.truncate(50)),
        ),
        (
            "W174 a broken key",
            with(&|svids| svids[0].x509_svid_key.truncate(20)),
        ),
        (
            "W174 D32 the key of another certificate",
            with(&|svids| svids[0].x509_svid_key = other.x509_svid_key.clone()),
        ),
        ("W174 expired", with(&|svids| svids[0] = expired.clone())),
        (
            "W81 the certificate of another identity",
            with(&|svids| svids[0].spiffe_id = "spiffe://example.org/other".to_owned()),
        ),
        ("W77 D22 no bundle", with(&|svids| svids[0].bundle.clear())),
        (
            "W174 a broken bundle",
            with(&|svids| svids[0].bundle.truncate(20)),
        ),
        (
            "W174 no SPIFFE ID",
            with(&|svids| svids[0].spiffe_id.clear()),
        ),
        (
            "W94 D35 too many",
            with(&|svids| {
                let one = svids[0].clone();
                svids.resize(10_001, one);
            }),
        ),
        ("W174 an empty message", pb::X509svidResponse::default()),
    ];
    let fake = Fake::new(&genuine);
    let mut identity = fake.identity().await;
    for (number, message) in rows {
        let before = leaf(&identity);
        fake.say_x509(Ok(message));
        becomes(&mut identity.readiness, is_refused).await;
        assert_eq!(leaf(&identity), before, "{number}");
        let peers = identity.x509.bundle_set().unwrap();
        assert!(peers.get(stack.agent.trust_domain()).is_some(), "{number}");
        stack.agent.rotate_x509();
        fake.say_x509(Ok(Genuine::of(&stack).await.x509));
        becomes(&mut identity.readiness, |now| *now == Readiness::Ready).await;
        assert_ne!(leaf(&identity), before, "{number}");
    }
    let calls = fake.wait_for_calls(Call::X509, 1).await.len();
    assert_eq!(calls, 1, "D28: the stream stays open");
}

/// Returns an SVID of the server that has expired.
async fn expired_svid() -> pb::X509svid {
    let short = |config: &mut dev_agent::Config| config.x509_ttl = Duration::from_secs(2);
    let stack = Stack::with(SERVER_ID, short).await;
    let svid = Genuine::of(&stack).await.x509.svids.remove(0);
    let not_after = {
        let (_, certificate) = x509_parser::parse_x509_certificate(&svid.x509_svid).unwrap();
        certificate.validity().not_after.timestamp()
    };
    until(async || harness::jwt::now() as i64 > not_after).await;
    svid
}

/// A fault of another identity does not affect the chosen one.
#[tokio::test]
async fn bad_svid_next_to_the_chosen_one_changes_nothing_w175() {
    let stack = Stack::new().await;
    let mut genuine = Genuine::of(&stack).await;
    genuine.x509.svids.push(pb::X509svid {
        spiffe_id: "spiffe://example.org/other".to_owned(),
        ..pb::X509svid::default()
    });
    let fake = Fake::new(&genuine);
    let identity = fake.identity().await;
    assert_eq!(*identity.readiness.borrow(), Readiness::Ready, "D29");
}

#[tokio::test]
async fn svid_that_cannot_be_used_is_logged_and_not_presented_w174() {
    let stack = Stack::new().await;
    let genuine = Genuine::of(&stack).await;
    let fake = Fake::new(&genuine);
    let (mut server, port) = fake.server(&[]).await;
    let https = stack.https(port);
    let before = https.presented().await.unwrap();
    stack.agent.rotate_x509();
    let next = Genuine::of(&stack).await.x509;
    let mut wrong = next.clone();
    wrong.svids[0].x509_svid_key = genuine.x509.svids[0].x509_svid_key.clone();
    let expected = next.svids[0].x509_svid.clone();
    for _ in 0..3 {
        fake.say_x509(Ok(wrong.clone()));
        server
            .logged("its private key does not belong to its certificate")
            .await;
        assert_eq!(https.presented().await.unwrap(), before, "D32");
    }
    fake.say_x509(Ok(next));
    until(async || https.presented().await.as_deref() == Some(&expected[..])).await;
    server
        .logged("what the Workload API sends can be used again")
        .await;
    let log = server.whole_log().await;
    assert_eq!(log.matches("ERROR").count(), 1, "not one error:\n{log}");
}
