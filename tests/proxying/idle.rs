use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use harness::{
    Stack,
    raw::Client,
    upstream::{self, ConnectionNumber, Http},
};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioTimer;
use serve::body;
use tokio::task::JoinSet;

use crate::FRESH;

/// The time after which the upstream closes an idle HTTP/1.1 connection, as many servers do.
const IDLE: Duration = Duration::from_secs(2);

fn closing(http: &mut Http) {
    let mut http1 = http.http1();
    http1.timer(TokioTimer::new()).header_read_timeout(IDLE);
}

/// Reads the body and answers with the number of the connection.
async fn number(request: Request<Incoming>) -> Response<body::Body> {
    let number = *request.extensions().get::<ConnectionNumber>().unwrap();
    let _ = request.into_body().collect().await;
    body::text(StatusCode::OK, format!("{}", number.0))
}

fn request(method: &str, length: usize) -> Vec<u8> {
    let head = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), &vec![b'a'; length]].concat()
}

/// Requests that a proxy may not send again. The last one has a connection for itself.
const ONCE: [(&str, usize); 4] = [("POST", 0), ("DELETE", 0), ("POST", 5), ("POST", 100_000)];

#[tokio::test]
async fn requests_that_can_not_be_sent_again_are_served_as_the_upstream_closes_idle_connections() {
    let stack = Stack::new().await;
    for alpn in [&["http/1.1"][..], &["h2", "http/1.1"]] {
        let upstream = upstream::answering_with(&stack, alpn, closing, number).await;
        let proxy = stack.proxy(upstream, &["--cores", "1"]).await;
        let https = stack.https(proxy.listening().await);
        let mut callers = JoinSet::new();
        for n in 0..60 {
            let (https, (method, length)) = (https.clone(), ONCE[n % ONCE.len()]);
            callers.spawn(async move {
                let mut client = Client::sending(&https, request(method, length)).await;
                assert_eq!(client.answer().await.unwrap().status(), 200);
                // The upstream closes about when the next request comes.
                let early = Duration::from_millis(15);
                let spread = Duration::from_micros(500) * u32::try_from(n).unwrap();
                tokio::time::sleep(IDLE - early + spread).await;
                client.send(request(method, length)).await;
                client.answer().await.unwrap().status()
            });
        }
        let mut statuses = BTreeMap::<u16, usize>::new();
        for status in callers.join_all().await {
            *statuses.entry(status).or_default() += 1;
        }
        assert_eq!(statuses, BTreeMap::from([(200, 60)]), "{alpn:?}");
    }
}

#[tokio::test]
async fn http1_connection_is_used_again_at_once_by_any_request_and_later_by_those_sent_again() {
    let stack = Stack::new().await;
    let upstream = upstream::answering(&stack, &["http/1.1"], number).await;
    let proxy = stack.proxy(upstream, &["--cores", "1"]).await;
    let https = stack.https(proxy.listening().await);
    let mut client = Client::new(&https).await;
    let (mut before, mut used) = (None, Instant::now());
    for (pause, method, length, is_same) in [
        (Duration::ZERO, "GET", 0, true),
        (Duration::ZERO, "POST", 5, true),
        (Duration::ZERO, "POST", 100_000, true),
        (FRESH, "GET", 0, true),
        (FRESH, "POST", 5, false),
        (Duration::ZERO, "DELETE", 0, true),
        (FRESH, "DELETE", 0, false),
        (FRESH, "POST", 100_000, false),
    ] {
        let what = format!("{method} of {length} after {pause:?}");
        tokio::time::sleep(pause).await;
        client.send(request(method, length)).await;
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status(), 200, "{what}");
        // A busy machine may make a pause where there should be none.
        if pause == FRESH || used.elapsed() < FRESH / 2 {
            let same = before
                .replace(answer.body.clone())
                .unwrap_or_else(|| answer.body.clone());
            assert_eq!(same == answer.body, is_same, "{what}");
        }
        (before, used) = (Some(answer.body), Instant::now());
    }
}
