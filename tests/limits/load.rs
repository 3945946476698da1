use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use common::bearer::MAX_WAITING;
use futures_util::{future::join_all, stream};
use harness::{
    PATIENCE, Stack,
    frames::{self, Frames},
    https::{Https, WholeAnswer, get},
    metrics::Page,
    upstream::HoldingUpstream,
    wait::until,
};
use http::{Request, Version};
use http_body_util::{Full, StreamBody};
use hyper::{
    body::{Bytes, Frame},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{task::JoinSet, time::timeout};

use crate::{ask, server};

#[tokio::test]
async fn requests_over_the_bound_are_refused_until_others_are_over() {
    let stack = Stack::new().await;
    let slow = HoldingUpstream::new(&stack).await;
    let proxy = stack.proxy(slow.port, &["--max-requests", "3"]).await;
    let start = Instant::now();
    let https = stack.https(proxy.listening().await);
    let mut served = JoinSet::new();
    for version in [Version::HTTP_11, Version::HTTP_2, Version::HTTP_2] {
        let https = https.clone();
        served.spawn(async move { https.send_over(version, get(&[])).await });
    }
    slow.arrived(3).await;

    for version in [Version::HTTP_11, Version::HTTP_2] {
        is_overloaded(&https.send_over(version, get(&[])).await);
        // The body that is announced never comes, and the proxy does not wait for it.
        let request = Request::post("/").header("content-length", "5");
        let nothing = stream::pending::<Result<Frame<Bytes>, Infallible>>();
        let request = request.body(StreamBody::new(nothing)).unwrap();
        let refused = https.start(version, request).await;
        assert_eq!(refused.status(), 503);
        let closes = refused.headers().contains_key("connection");
        assert_eq!(closes, version == Version::HTTP_11);
    }
    let twice =
        "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answers = ask(&https, twice.as_bytes()).await;
    assert_eq!(
        answers.matches("HTTP/1.1 503 ").count(),
        2,
        "the connection is kept: {answers}"
    );
    let said = "more requests in flight than max-requests (3): answering 503";
    proxy.logged(said).await;
    let lines = proxy.log();
    let told = lines.iter().filter(|line| line.contains(said)).count();
    // A pause of 2 s begins another episode.
    assert!(
        told as u64 <= 1 + start.elapsed().as_secs() / 2,
        "{told} lines"
    );

    slow.release(3);
    for answer in served.join_all().await {
        assert_eq!(answer.body, "finished");
    }
    slow.release(9);
    assert_eq!(https.send(get(&[])).await.status, 200);
}

fn is_overloaded(answer: &WholeAnswer) {
    assert_eq!(answer.status, 503);
    assert_eq!(answer.headers["retry-after"], "1");
}

/// Returns a token whose signature is wrong, so that its refusal takes longest.
fn forged(stack: &Stack) -> String {
    let mut token = stack.bearer().into_bytes();
    let signature = token.len() - 40;
    token[signature] = if token[signature] == b'A' { b'B' } else { b'A' };
    String::from_utf8(token).unwrap()
}

/// Returns the times of `count` answers, one after the other on one connection.
async fn times(https: &Https, token: &str, count: usize) -> Vec<Duration> {
    let mut client = harness::raw::Client::new(https).await;
    let request = format!("GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\n\r\n");
    let mut times = Vec::new();
    for _ in 0..count {
        let asked = Instant::now();
        client.send(&request).await;
        assert_eq!(client.answer().await.expect("is kept").status(), 200);
        times.push(asked.elapsed());
    }
    times.sort();
    times
}

/// Sends new or bad tokens. A known token is answered in a small part of the time that they take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_new_tokens_does_not_hold_up_known_ones() {
    let (stack, _server, https) = server(&["--cores", "1"]).await;
    let good = stack.bearer();
    times(&https, &good, 1).await;
    let (stop, refused) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
    let mut flood = JoinSet::new();
    for _ in 0..4 {
        let sender = connect(&https).await;
        for _ in 0..100 {
            let (stop, refused) = (Arc::clone(&stop), Arc::clone(&refused));
            let (mut sender, bad) = (sender.clone(), forged(&stack));
            flood.spawn(async move {
                let mut times = Vec::new();
                while !stop.load(SeqCst) {
                    let request = over_http2(&[("authorization", &bad)]);
                    sender.ready().await.unwrap();
                    let asked = Instant::now();
                    let answer = sender.send_request(request).await.unwrap();
                    assert_eq!(answer.status(), 401);
                    refused.fetch_add(1, SeqCst);
                    times.push(asked.elapsed());
                }
                times
            });
        }
    }
    // After so many answers, each caller of the flood waits for one.
    until(async || refused.load(SeqCst) >= 2 * flood.len()).await;
    let known = times(&https.from("127.0.0.2"), &good, 200).await;
    stop.store(true, SeqCst);
    let mut flooded: Vec<_> = flood.join_all().await.concat();
    flooded.sort();
    let [known, flooded] = [&known, &flooded].map(|times| times[times.len() / 2]);
    println!("median of a known token {known:?}, of the flood {flooded:?}");
    assert!(known * 5 < flooded, "known {known:?}, flood {flooded:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_tokens_than_may_wait_are_refused_until_others_are_verified() {
    const STREAMS: u32 = 200;
    let stack = Stack::new().await;
    let (server, admin) = stack.server_with_admin(&["--cores", "1"]).await;
    let https = stack.https(server.listening().await);
    let good = stack.bearer();
    times(&https, &good, 1).await;
    let bad = forged(&stack);
    let requests: Vec<u8> = (0..STREAMS)
        .flat_map(|n| frames::request(2 * n + 1, frames::GET, &[("authorization", &bad)]))
        .collect();
    let connections = 2 * MAX_WAITING as u32 / STREAMS;
    let is_seen = AtomicBool::new(false);
    let flooding = async {
        let mut is_refused = false;
        while !is_refused || !is_seen.load(SeqCst) {
            let mut flood = JoinSet::new();
            let mut ready = Vec::new();
            for _ in 0..connections {
                ready.push(Frames::connect(&https, &[]).await);
            }
            let one_of_many = connect(&https).await;
            for mut frames in ready {
                let requests = requests.clone();
                flood.spawn(async move {
                    frames.send(&requests).await;
                    for _ in 0..STREAMS {
                        while frames.next().await.expect("is kept").kind != frames::HEADERS {}
                    }
                });
            }
            // A known token is accepted meanwhile.
            let known = times(&https, &good, 1);
            let (refused, _) = tokio::join!(is_one_refused(&one_of_many, &bad, STREAMS), known);
            is_refused |= refused;
            flood.join_all().await;
        }
    };
    let waiting = "spiffe_verifications_waiting";
    let seeing = async {
        until(async || Page::of(&admin).await.at(waiting) > 0.0).await;
        is_seen.store(true, SeqCst);
    };
    let (flooded, ()) = tokio::join!(timeout(PATIENCE, flooding), seeing);
    flooded.expect("is refused in time");
    let waiting = format!("Cannot check tokens: {MAX_WAITING} wait");
    let line = server.logged(&waiting).await;
    assert!(line.contains(" reason=busy "), "{line}");
    let page = Page::of(&admin).await;
    assert!(page.at("spiffe_refusals_total{reason=\"busy\"}") >= 1.0);
    assert!(page.at("spiffe_shed_total{cause=\"busy\"}") >= 1.0);
    let new = stack.token(|claims| claims.payload["jti"] = "new".into());
    times(&https, &format!("Bearer {new}"), 1).await;
}

/// Sends `count` bad tokens at once. Returns whether one is refused because too many verifications wait.
async fn is_one_refused(sender: &Sender, bad: &str, count: u32) -> bool {
    let asking = (0..count).map(|_| {
        let (mut sender, request) = (sender.clone(), over_http2(&[("authorization", bad)]));
        async move {
            sender.ready().await.unwrap();
            sender.send_request(request).await.unwrap()
        }
    });
    let answers = join_all(asking).await;
    let mut refused = answers.iter().filter(|answer| answer.status() == 503);
    let one = refused.next();
    one.inspect(|one| assert_eq!(one.headers()["retry-after"], "1"))
        .is_some()
}

type Sender = http2::SendRequest<Full<Bytes>>;

/// Returns a connection over HTTP/2.
async fn connect(https: &Https) -> Sender {
    let io = TokioIo::new(https.connect(b"h2").await);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Returns a GET of `/` with these header fields, as HTTP/2 has it.
fn over_http2(fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = get(fields);
    *request.uri_mut() = "https://localhost/".parse().unwrap();
    request
}
