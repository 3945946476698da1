use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use harness::{
    SERVER_ID, Stack,
    https::get,
    process::Process,
    raw::Client,
    wait::until,
    x509::{Authority, Presenting, bundle_of, expires_in},
};
use http::Version;
use hyper_util::rt::TokioIo;
use spiffe::SpiffeId;

#[tokio::test]
async fn running_connection_lives_through_a_rotation_p179() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let https = stack.https(server.listening().await);
    let io = TokioIo::new(https.connect(b"http/1.1").await);
    let (mut kept, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let old = https.presented().await;

    stack.agent.rotate_x509();
    until(async || https.presented().await != old).await;

    let token = stack.bearer();
    let request = get(&[("authorization", &token), ("host", "localhost")]);
    assert_eq!(kept.send_request(request).await.unwrap().status(), 200);
}

#[tokio::test]
async fn expired_svid_is_not_presented_p180() {
    let stack = Stack::with(SERVER_ID, |config| config.x509_ttl = Duration::from_secs(4)).await;
    let server = stack.server(&[]).await;
    let https = stack.https(server.listening().await);
    assert!(https.try_connect(b"h2").await.is_ok());

    stack.agent.stall();

    until(async || match https.try_connect(b"h2").await {
        Ok(_) => false,
        // The server refuses the handshake. Otherwise this side would report an expired
        // certificate.
        Err(error) => {
            error.to_string().contains("alert") || {
                assert!(error.to_string().contains("xpired"), "{error}");
                false
            }
        }
    })
    .await;
}

#[tokio::test]
async fn withdrawn_svid_is_not_presented_p180() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let proxy = stack.proxy(server.listening().await, &[]).await;
    stack.agent.withdraw(&SpiffeId::new(SERVER_ID).unwrap());
    for process in [server, proxy] {
        let https = stack.https(process.listening().await);
        until(async || https.try_connect(b"h2").await.is_err()).await;
    }
}

/// Starts a proxy in front of an upstream of another trust domain, and returns that domain's CA.
async fn before(upstream: &Presenting) -> (Stack, Process, Authority) {
    let root = Authority::root();
    upstream.present(&root.issue("spiffe://odd.test/server", |_| ()));
    let stack = Stack::federated(root.bundle("odd.test")).await;
    let args = ["--upstream-id", "spiffe://odd.test/server", "--cores", "1"];
    let proxy = stack.proxy(upstream.port, &args).await;
    (stack, proxy, root)
}

#[tokio::test]
async fn no_session_with_the_upstream_is_resumed_p195() {
    let upstream = Presenting::closing().await;
    let (stack, proxy, _) = before(&upstream).await;
    let https = stack.https(proxy.listening().await);
    for _ in 0..3 {
        assert_eq!(https.send(get(&[])).await.status, 200);
    }
    let seen = upstream.seen();
    assert_eq!(seen.connections(), 3);
    assert_eq!(seen.full_handshakes.load(SeqCst), 3);
}

#[tokio::test]
async fn connection_is_renewed_when_the_peers_svid_expires_t007() {
    let is_renewed = async |alpn| {
        let upstream = Presenting::new(alpn).await;
        let (stack, proxy, root) = before(&upstream).await;
        let issue = |life: u64| {
            root.issue("spiffe://odd.test/server", |params| {
                expires_in(params, Duration::from_secs(life));
            })
        };
        upstream.present(&issue(8));
        let https = stack.https(proxy.listening().await);
        let ask = async || https.send(get(&[])).await.status.as_u16();
        assert_eq!(ask().await, 200);
        upstream.present(&issue(3600));
        assert_eq!(ask().await, 200);
        assert_eq!(upstream.seen().connections(), 1, "{alpn}");
        until(async || ask().await == 200 && upstream.seen().connections() == 2).await;
        assert_eq!(ask().await, 200);
        assert_eq!(upstream.seen().connections(), 2, "{alpn}");
    };
    tokio::join!(is_renewed("h2"), is_renewed("http/1.1"));
}

/// Waits until the process has applied one more update after `change`.
async fn updated(process: &Process, change: impl FnOnce()) {
    let updates = || {
        let log = process.log();
        let lines = log.iter().filter(|line| line.contains("identity updated"));
        lines.count()
    };
    let before = updates();
    change();
    until(async || updates() > before).await;
}

#[tokio::test]
async fn connections_outlive_updates_that_did_not_verify_them_p196_t007() {
    for alpn in ["h2", "http/1.1"] {
        let upstream = Presenting::new(alpn).await;
        let (stack, proxy, root) = before(&upstream).await;
        let https = stack.https(proxy.listening().await);
        assert_eq!(https.send(get(&[])).await.status, 200);
        let other = Authority::root().bundle("other.test");
        let federated = vec![other.clone(), root.bundle("odd.test")];
        updated(&proxy, || stack.agent.rotate_x509()).await;
        updated(&proxy, || stack.agent.set_federated(federated).unwrap()).await;
        updated(&proxy, || stack.agent.rotate_ca()).await;
        updated(&proxy, || _ = stack.agent.unfederate(other.trust_domain())).await;
        updated(&proxy, || stack.agent.drop_old_ca()).await;
        let https = stack.https(proxy.listening().await);
        // The connections are not renewed by the task that logs the update. Each of these requests
        // would find them renewed.
        for _ in 0..20 {
            assert_eq!(https.send(get(&[])).await.status, 200);
        }
        assert_eq!(upstream.seen().connections(), 1, "{alpn}");
        assert_eq!(upstream.seen().closed.load(SeqCst), 0, "{alpn}");
    }
}

#[tokio::test]
async fn connections_are_verified_again_after_a_change_of_the_trust_bundle_p196_t007() {
    for alpn in ["h2", "http/1.1"] {
        let upstream = Presenting::new(alpn).await;
        let (stack, proxy, root) = before(&upstream).await;
        let https = stack.https(proxy.listening().await);
        let ask = async || {
            let answer = https.send_over(Version::HTTP_2, get(&[])).await;
            answer.status.as_u16()
        };
        for _ in 0..3 {
            assert_eq!(ask().await, 200);
        }
        assert_eq!(
            upstream.seen().connections(),
            1,
            "{alpn}: the connection is kept"
        );

        let other = Authority::root();
        let federate = |authorities: &[&Authority]| {
            let bundle = bundle_of(authorities, "odd.test");
            stack.agent.set_federated(vec![bundle]).unwrap();
        };
        federate(&[&other, &root]);
        until(async || ask().await == 200 && upstream.seen().connections() == 2).await;
        until(async || upstream.seen().closed.load(SeqCst) == 1).await;

        federate(&[&other]);
        until(async || ask().await == 502).await;
        until(async || upstream.seen().closed.load(SeqCst) == 2).await;
        upstream.present(&other.issue("spiffe://odd.test/server", |_| ()));
        until(async || ask().await == 200).await;
    }
}

#[tokio::test]
async fn connections_end_when_the_identity_is_withdrawn_p196() {
    let upstream = Presenting::new("h2").await;
    let (stack, proxy, _) = before(&upstream).await;
    let https = stack.https(proxy.listening().await);
    // The connection is kept, because the proxy accepts no new one without an identity.
    let mut client = Client::new(&https).await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send(request).await;
    assert_eq!(client.answer().await.unwrap().status(), 200);
    let id = SpiffeId::new(SERVER_ID).unwrap();
    stack.agent.withdraw(&id);
    until(async || upstream.seen().closed.load(SeqCst) == 1).await;
    client.send(request).await;
    // The caller's connection drains, and may have ended.
    if let Some(answer) = client.answer().await {
        assert_eq!(answer.status(), 503);
    }
    stack.agent.restore(&id);
    until(async || https.try_connect(b"http/1.1").await.is_ok()).await;
    assert_eq!(https.send(get(&[])).await.status, 200);
}
