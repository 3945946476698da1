use std::time::Duration;

use common::workload::{Degradation, Readiness, Unready};
use spiffe::SpiffeId;

use harness::{SERVER_ID, Stack, https::get, wait::becomes};

/// The life of an SVID, whose end a test can wait for.
const SHORT: Duration = Duration::from_secs(4);

fn degraded(readiness: &Readiness, by: Degradation) -> bool {
    matches!(readiness, Readiness::Degraded { reason, .. } if *reason == by)
}

#[tokio::test]
async fn an_identity_that_is_withdrawn_is_not_ready_until_it_is_restored() {
    let stack = Stack::new().await;
    let identity = stack.identity().await;
    let mut readiness = identity.readiness.clone();
    assert_eq!(*readiness.borrow(), Readiness::Ready);
    let id = SpiffeId::new(SERVER_ID).unwrap();

    stack.agent.withdraw(&id);
    let withdrawn = |now: &_| matches!(now, Readiness::NotReady(Unready::Withdrawn(_)));
    becomes(&mut readiness, withdrawn).await;

    stack.agent.restore(&id);
    becomes(&mut readiness, |now| *now == Readiness::Ready).await;
}

#[tokio::test]
async fn an_agent_that_is_gone_until_the_svid_expires_is_reported_step_by_step() {
    let stack = Stack::with(SERVER_ID, |config| config.x509_ttl = SHORT).await;
    let server = stack.server(&[]).await;
    let identity = stack.identity().await;
    let mut readiness = identity.readiness.clone();

    stack.agent.stop().await;
    becomes(&mut readiness, |now| degraded(now, Degradation::Outage)).await;
    becomes(&mut readiness, |now| degraded(now, Degradation::Expiring)).await;
    let expired = Readiness::NotReady(Unready::Expired);
    becomes(&mut readiness, |now| *now == expired).await;

    server.logged("lost the Workload API").await;
    server.logged("no new X.509-SVID has come").await;
    server.logged("the X.509-SVID has expired").await;
    let https = stack.https(server.listening().await);
    assert!(
        https.try_connect(b"http/1.1").await.is_err(),
        "an expired SVID is not presented"
    );

    stack.agent.restart().await.unwrap();
    becomes(&mut readiness, |now| *now == Readiness::Ready).await;
    server.logged("the Workload API is back").await;
    let token = stack.bearer();
    let answer = https.send(get(&[("authorization", &token)])).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn an_agent_that_says_nothing_is_noticed_before_the_svid_expires() {
    let stack = Stack::with(SERVER_ID, |config| config.x509_ttl = SHORT).await;
    let identity = stack.identity().await;
    let mut readiness = identity.readiness.clone();

    stack.agent.stall();
    becomes(&mut readiness, |now| degraded(now, Degradation::Expiring)).await;
    let left = readiness.borrow().left(std::time::SystemTime::now());
    assert!(left.is_some_and(|left| left < SHORT / 2), "{left:?}");

    stack.agent.unstall();
    becomes(&mut readiness, |now| *now == Readiness::Ready).await;
}
