use std::time::Duration;

use dev_agent::pb;
use harness::{
    SERVER_ID, Stack,
    fake_workload_api::{Call, Fake, Genuine},
    https::{Https, get},
    wait::{until, until_some},
};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use nix::sys::signal::Signal;
use spiffe::bundle::BundleSource;
use tonic::Status;

use crate::leaf;

/// Sends many requests over one connection, because the test is not about handshakes.
struct Kept(hyper::client::conn::http1::SendRequest<Full<Bytes>>);

impl Kept {
    async fn new(https: &Https) -> Self {
        let io = hyper_util::rt::TokioIo::new(https.connect(b"http/1.1").await);
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    async fn status(&mut self, token: &str) -> u16 {
        let value = format!("Bearer {token}");
        let request = get(&[("authorization", &value), ("host", "localhost")]);
        self.0.ready().await.unwrap();
        let answer = self.0.send_request(request).await.unwrap();
        let status = answer.status().as_u16();
        answer.into_body().collect().await.unwrap();
        status
    }
}

#[tokio::test]
async fn withdrawal_stops_the_use_of_an_identity_and_is_undone_w170() {
    let stack = Stack::new().await;
    let genuine = Genuine::of(&stack).await;
    let fake = Fake::new(&genuine);
    let (server, port) = fake.server(&[]).await;
    let https = stack.https(port);
    let mut kept = Kept::new(&https).await;

    let no = Status::permission_denied("no identity issued");
    fake.say_jwt_bundles(Err(no.clone()));
    server
        .logged("identity withdrawn by the Workload API")
        .await;
    assert_eq!(kept.status(&stack.token(|_| ())).await, 503, "W171");

    fake.say_x509(Err(no));
    until(async || https.presented().await.is_none()).await;

    fake.say_x509(Ok(genuine.x509));
    fake.say_jwt_bundles(Ok(genuine.jwt_bundles));
    server.logged("the identity is issued again").await;
    until_some(async || https.presented().await).await;
    assert_eq!(https.status(&stack.token(|_| ())).await, 200, "D25");
}

#[tokio::test]
async fn identity_stays_in_use_through_an_outage_w172() {
    let stack = Stack::new().await;
    let genuine = Genuine::of(&stack).await;
    let fake = Fake::new(&genuine);
    let identity = fake.identity().await;
    let before = leaf(&identity);
    let calls = fake.wait_for_calls(Call::X509, 1).await.len();
    // "W167 W168 D26": a process that runs asks again after any error. The first error ends the
    // stream, and answers one more call.
    for (status, asked) in [
        (Status::unavailable("restarting"), 1),
        (Status::invalid_argument("no"), 2),
        (Status::unimplemented("no"), 3),
    ] {
        fake.say_x509(Err(status));
        fake.wait_for_calls(Call::X509, calls + asked).await;
    }
    let failed = fake.wait_for_calls(Call::X509, calls + 6).await;
    assert_eq!(leaf(&identity), before);
    let waits: Vec<_> = failed[calls..]
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .collect();
    for (wait, least) in waits.iter().zip([50, 100, 200, 400, 800]) {
        let least = Duration::from_millis(least);
        assert!(*wait >= least, "D27: each wait is longer: {waits:?}");
    }

    // "W173": the first wait is short again after a success.
    stack.agent.rotate_x509();
    let next = Genuine::of(&stack).await.x509;
    fake.say_x509(Ok(next));
    until(async || leaf(&identity) != before).await;
    let served = fake.wait_for_calls(Call::X509, 1).await.len();
    let ended = tokio::time::Instant::now();
    fake.say_x509(Err(Status::unavailable("again")));
    let again = fake.wait_for_calls(Call::X509, served + 1).await[served] - ended;
    assert!(
        again < *waits.last().unwrap(),
        "W173: {again:?} after {waits:?}"
    );
}

#[tokio::test]
async fn expired_svid_is_not_presented_w176() {
    let stack = Stack::with(SERVER_ID, |config| {
        config.x509_ttl = Duration::from_secs(4);
    })
    .await;
    let server = stack.server(&[]).await;
    let https = stack.https(server.listening().await);
    assert!(https.presented().await.is_some());
    stack.agent.stall();
    // "D31"
    until(async || https.presented().await.is_none()).await;
}

#[tokio::test]
async fn first_svid_is_the_default_whatever_the_hints_w177() {
    let stack = Stack::new().await;
    let mut genuine = Genuine::of(&stack).await;
    stack.agent.rotate_x509();
    let mut second = Genuine::of(&stack).await.x509.svids.remove(0);
    second.hint = "internal".to_owned();
    genuine.x509.svids.truncate(1);
    genuine.x509.svids[0].hint = "internal".to_owned();
    genuine.x509.svids.push(second);
    let fake = Fake::new(&genuine);
    let identity = fake.identity().await;
    assert_eq!(leaf(&identity), genuine.x509.svids[0].x509_svid, "D30");
}

#[tokio::test]
async fn token_is_checked_with_the_bundle_of_its_own_trust_domain_w182() {
    let stack = Stack::new().await;
    let other = Stack::with("spiffe://other.test/x", |config| {
        config.entries = vec!["spiffe://other.test/x=unix:uid:0".parse().unwrap()];
    })
    .await;
    let server = stack.server(&[]).await;
    let https = stack.https(server.listening().await);
    let of_other = |subject: &str| {
        let claims = other.agent.jwt_claims(subject, &[SERVER_ID]);
        other.agent.mint_jwt(&claims)
    };
    let own = of_other("spiffe://other.test/x");
    let mut kept = Kept::new(&https).await;
    assert_eq!(kept.status(&own).await, 401, "W182 no bundle");
    let theirs = other.agent.federation();
    stack.agent.set_federated(vec![theirs]).unwrap();
    // The trust domain is known by then, but its callers are not allowed.
    until(async || kept.status(&own).await == 403).await;
    let forged = of_other("spiffe://example.org/client");
    assert_eq!(
        kept.status(&forged).await,
        401,
        "W182 bundles are not merged"
    );
}

/// Keys that sign certificates do not verify tokens, and keys that sign tokens do not verify
/// certificates.
#[tokio::test]
async fn bundles_of_one_kind_are_not_used_for_the_other_w183() {
    let stack = Stack::new().await;
    let genuine = Genuine::of(&stack).await;
    let fake = Fake::new(&genuine);
    let empty = pb::JwtBundlesResponse {
        bundles: [(
            "spiffe://example.org".to_owned(),
            br#"{"keys":[]}"#.to_vec(),
        )]
        .into(),
    };
    fake.say_jwt_bundles(Ok(empty));
    let (_server, port) = fake.server(&[]).await;
    assert_eq!(stack.https(port).status(&stack.token(|_| ())).await, 401);

    let identity = fake.identity().await;
    let domain = stack.agent.trust_domain();
    let roots = identity
        .x509
        .bundle_for_trust_domain(domain)
        .unwrap()
        .unwrap();
    assert_eq!(roots.authorities().len(), 1, "only certificates");
    let keys = identity
        .jwt
        .bundle_for_trust_domain(domain)
        .unwrap()
        .unwrap();
    assert_eq!(keys.key_ids().count(), 0, "only JWT keys");
}

#[tokio::test]
async fn process_that_ends_leaves_no_connection_w184() {
    let stack = Stack::new().await;
    let fake = Fake::new(&Genuine::of(&stack).await);
    let (mut server, _) = fake.server(&[]).await;
    fake.wait_for_connections(|open| *open > 0).await;
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().await.code(), Some(0));
    fake.wait_for_connections(|open| *open == 0).await;
}

/// Everything rotates under load, as a careful authority does it: published first, and then used.
#[tokio::test]
async fn rotation_under_load_fails_no_request_w144() {
    const WORKERS: usize = 10;
    const REQUESTS: usize = 100;
    let stack = std::sync::Arc::new(Stack::new().await);
    let server = stack.server(&[]).await;
    let proxy = stack.proxy(server.listening().await, &[]).await;
    let port = proxy.listening().await;
    stack.agent.prepare_ca();
    stack.agent.prepare_jwt_key();
    let roots = stack.agent.x509_bundle_pem();
    let done = std::sync::Arc::new(tokio::sync::watch::Sender::new(0));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..WORKERS {
        let (stack, done) = (std::sync::Arc::clone(&stack), std::sync::Arc::clone(&done));
        let https = Https::new(port, &roots);
        workers.spawn(async move {
            for _ in 0..REQUESTS {
                assert_eq!(https.status(&stack.token(|_| ())).await, 200);
                done.send_modify(|done| *done += 1);
            }
        });
    }
    let mut progress = done.subscribe();
    let after = async |progress: &mut tokio::sync::watch::Receiver<usize>, count| {
        progress.wait_for(|done| *done >= count).await.unwrap();
    };
    after(&mut progress, 200).await;
    stack.agent.rotate_x509();
    after(&mut progress, 400).await;
    stack.agent.rotate_ca();
    after(&mut progress, 600).await;
    stack.agent.rotate_jwt_key();
    after(&mut progress, 800).await;
    stack.agent.rotate_x509();
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
}

#[tokio::test]
async fn server_follows_an_agent_that_has_lost_its_keys_w012() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let port = server.listening().await;
    let (old, old_token) = (stack.https(port), stack.token(|_| ()));
    assert_eq!(old.status(&old_token).await, 200);

    stack.agent.restart_with_new_keys().await.unwrap();
    // A process that has the new keys accepts neither the old SVID nor the old token.
    until(async || old.presented().await.is_none()).await;
    let new = stack.https(port);
    until(async || new.status(&stack.token(|_| ())).await == 200).await;
    assert_eq!(new.status(&old_token).await, 401);
}
