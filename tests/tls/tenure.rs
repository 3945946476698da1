use std::{sync::Arc, time::Duration};

use harness::{
    SERVER_ID, Stack,
    frames::{Frames, GOAWAY},
    https::Https,
    raw::{Client, End},
    upstream,
};
use http::StatusCode;
use serve::body;
use spiffe::SpiffeId;
use tokio::sync::Notify;

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Opens a connection of each HTTP version, on which nothing is in flight.
async fn kept(https: &Https) -> (Client, Frames) {
    let mut http1 = Client::sending(https, GET).await;
    assert_eq!(http1.answer().await.unwrap().status(), 401);
    (http1, Frames::connect(https, &[]).await)
}

/// Waits until both connections have drained.
async fn drained((mut http1, mut http2): (Client, Frames)) {
    assert_eq!(http1.end().await, (Vec::new(), End::Clean));
    http2.until(GOAWAY, 0).await;
}

#[tokio::test]
async fn connections_drain_when_the_svid_that_was_verified_expires_t006() {
    for is_stalled in [false, true] {
        let change = |config: &mut dev_agent::Config| config.x509_ttl = Duration::from_secs(4);
        let stack = Stack::with(SERVER_ID, change).await;
        let server = stack.server(&[]).await;
        let https = stack.https(server.listening().await);
        let kept = kept(&https).await;
        if is_stalled {
            stack.agent.stall();
        }
        drained(kept).await;
        let is_served = https.try_connect(b"h2").await.is_ok();
        assert_eq!(is_served, !is_stalled, "by the next SVID");
    }
}

#[tokio::test]
async fn connections_drain_when_the_identity_is_withdrawn_t006() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let kept = kept(&stack.https(server.listening().await)).await;
    stack.agent.withdraw(&SpiffeId::new(SERVER_ID).unwrap());
    drained(kept).await;
}

#[tokio::test]
async fn connections_drain_when_they_reach_their_age_t005() {
    let stack = Stack::new().await;
    let server = stack.server(&["--max-connection-age", "3s"]).await;
    drained(kept(&stack.https(server.listening().await)).await).await;
}

#[tokio::test]
async fn request_in_flight_outlives_the_age_for_the_drain_timeout_t005() {
    for (drain_timeout, is_answered) in [("30s", true), ("100ms", false)] {
        let stack = Stack::new().await;
        let release = Arc::new(Notify::new());
        let released = Arc::clone(&release);
        let upstream = upstream::answering(&stack, &["h2"], move |_| {
            let released = Arc::clone(&released);
            async move {
                released.notified().await;
                body::text(StatusCode::OK, "late")
            }
        })
        .await;
        let args = [
            "--max-connection-age",
            "3s",
            "--drain-timeout",
            drain_timeout,
        ];
        let proxy = stack.proxy(upstream, &args).await;
        let https = stack.https(proxy.listening().await);
        let mut busy = Client::sending(&https, GET).await;
        // It is opened later, so that the other one is old when it has ended.
        let mut idle = Client::sending(&https, "GET /no HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(idle.answer().await.unwrap().status(), 404);
        assert_eq!(idle.end().await.1, End::Clean);
        if is_answered {
            release.notify_one();
        }
        let answer = busy.answer().await;
        let connection = answer.as_ref().map(|answer| answer.fields("connection"));
        assert_eq!(connection, is_answered.then(|| vec!["close"]));
    }
}
