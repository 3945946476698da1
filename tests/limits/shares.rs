use std::time::Duration;

use harness::{
    PATIENCE, SERVER_ID, Stack,
    frames::{self, DATA, END_HEADERS, Frames, HEADERS, POST, frame},
    https::Https,
    process::Process,
    raw::Client,
    upstream,
};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Bytes;
use serve::body::{self, Body};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::caller::{Caller, gets};

/// `SETTINGS_INITIAL_WINDOW_SIZE` of 0 (RFC 9113 §6.5.2).
const NO_WINDOW: &[u8] = &[0, 4, 0, 0, 0, 0];

/// Opens 50 connections that send 200 GETs each and take no byte of an answer's body.
async fn unread(https: &Https, fields: &[(&str, &str)]) -> Vec<Frames> {
    let requests: Vec<u8> = (0..200)
        .flat_map(|n| frames::request(2 * n + 1, frames::GET, fields))
        .collect();
    let mut opened = JoinSet::new();
    for _ in 0..50 {
        let (https, requests) = (https.clone(), requests.clone());
        opened.spawn(async move {
            let mut http2 = Frames::connect(&https, NO_WINDOW).await;
            let sent = http2.send_without_reading(&requests, PATIENCE).await;
            assert!(sent, "the requests are taken");
            http2
        });
    }
    opened.join_all().await
}

/// Floods a server, and a proxy in front of another server, with requests whose answers nobody
/// reads.
async fn next_to_unread(args: &[&str], with_token: bool) {
    let stack = Stack::new().await;
    let token = stack.token(|_| ());
    let bearer = format!("Bearer {token}");
    let upstream = stack.server(&[]).await;
    let flooded = [
        stack.server(args).await,
        stack.proxy(upstream.listening().await, args).await,
    ];
    for (what, process) in ["server", "proxy"].into_iter().zip(&flooded) {
        let https = stack.https(process.listening().await);
        let fields = [("authorization", bearer.as_str())];
        let _unread = unread(&https, if with_token { &fields } else { &[] }).await;
        let good = https.from("127.0.0.2");
        let tally = gets(|version| Caller::new(&good, version, &token)).await;
        tally.is_well(&format!("10000 unread answers at the {what}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_caller_is_served_next_to_10000_refusals_that_nobody_reads() {
    next_to_unread(&[], false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_caller_is_served_next_to_unread_answers_over_max_requests() {
    next_to_unread(&["--max-requests", "100"], false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_caller_is_served_next_to_unread_answers_to_good_tokens() {
    next_to_unread(&["--max-requests", "1000"], true).await;
}

/// A body of this length fills the buffers between an upstream and a caller.
const LARGE: usize = 16 * 1024 * 1024;

/// Starts a proxy in front of an upstream. The upstream answers `x-quick` at once and `x-large`
/// with [`LARGE`] bytes. It answers a POST once it has read the body, and other requests never.
async fn before_slow_upstream(stack: &Stack, args: &[&str]) -> (Process, Https) {
    let slow = upstream::answering(stack, &["h2"], async |request: Request<_>| {
        if request.headers().contains_key("x-large") {
            return Response::new(Body::full(Bytes::from(vec![b'a'; LARGE])));
        }
        if !request.headers().contains_key("x-quick") {
            let is_upload = request.method() == "POST";
            let _ = request.into_body().collect().await;
            if !is_upload {
                std::future::pending::<()>().await;
            }
        }
        body::status(StatusCode::OK)
    })
    .await;
    let proxy = stack.proxy(slow, args).await;
    let https = stack.https(proxy.listening().await);
    (proxy, https)
}

/// Uploads repeatedly over HTTP/1.1, 1 KiB in each `pause`.
async fn trickle(https: Https, pause: Duration) {
    loop {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n";
        let mut client = Client::sending(&https, head).await;
        let sending = async {
            loop {
                client.send([b'a'; 1024]).await;
                sleep(pause).await;
            }
        };
        // A caller that was rejected starts again.
        let _ = timeout(pause * 3, sending).await;
    }
}

/// Uploads over HTTP/2 as [`trickle`] does, 20 times on a connection.
async fn trickle_http2(https: Https, pause: Duration) {
    loop {
        let mut http2 = Frames::connect(&https, &[]).await;
        let streams = || (0..20).map(|n| 2 * n + 1);
        let heads = streams().flat_map(|stream| frame(HEADERS, END_HEADERS, stream, POST));
        http2.send(&heads.collect::<Vec<_>>()).await;
        let part = |stream| frame(DATA, 0, stream, &[b'a'; 1024]);
        for _ in 0..3 {
            http2
                .send(&streams().flat_map(part).collect::<Vec<_>>())
                .await;
            sleep(pause).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_caller_is_served_next_to_uploads_of_1_kib_in_30_s() {
    is_served_next_to_trickling(&["--max-requests", "20"], Duration::from_secs(30)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_caller_is_served_next_to_uploads_that_just_keep_their_deadline() {
    let args = ["--max-requests", "20", "--body-timeout", "1s"];
    is_served_next_to_trickling(&args, Duration::from_millis(800)).await;
}

async fn is_served_next_to_trickling(args: &[&str], pause: Duration) {
    let stack = Stack::new().await;
    let token = stack.token(|_| ());
    let (_proxy, proxied) = before_slow_upstream(&stack, args).await;
    let server = stack.server(args).await;
    let served = stack.https(server.listening().await);
    for (what, https) in [("proxy", proxied), ("server", served)] {
        let mut flood = JoinSet::new();
        for _ in 0..100 {
            flood.spawn(trickle(https.clone(), pause));
        }
        for _ in 0..5 {
            flood.spawn(trickle_http2(https.clone(), pause));
        }
        let good = https.from("127.0.0.2");
        let tally = gets(|version| Caller::new(&good, version, &token).with("x-quick", "1"));
        tally
            .await
            .is_well(&format!("trickling uploads at the {what}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_caller_is_served_next_to_slow_requests_over_max_requests() {
    is_served_next_to_slow_requests(&[("127.0.0.1", 60)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_caller_is_served_next_to_slow_requests_from_several_addresses() {
    is_served_next_to_slow_requests(&[("127.0.0.3", 20), ("127.0.0.4", 20), ("127.0.0.5", 20)])
        .await;
}

async fn is_served_next_to_slow_requests(sources: &[(&str, usize)]) {
    let stack = Stack::new().await;
    let (proxy, https) = before_slow_upstream(&stack, &["--max-requests", "20"]).await;
    let mut flood = JoinSet::new();
    for (source, count) in sources {
        for n in 0..*count {
            let version = [Version::HTTP_11, Version::HTTP_2][n % 2];
            // Each caller repeats a request that takes the upstream long.
            let asking = Caller::new(&https.from(source), version, "");
            flood.spawn(asking.sends(usize::MAX, Method::GET, Bytes::new(), PATIENCE));
        }
    }
    proxy
        .logged("more requests in flight than max-requests (20)")
        .await;
    let good = https.from("127.0.0.2");
    let caller = |version| Caller::new(&good, version, SERVER_ID).with("x-quick", "1");
    gets(caller).await.is_well("slow requests");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_caller_is_served_next_to_large_answers_that_nobody_reads() {
    let stack = Stack::new().await;
    let (_proxy, https) = before_slow_upstream(&stack, &["--max-requests", "20"]).await;
    let ask = "GET / HTTP/1.1\r\nHost: a\r\nX-Large: 1\r\n\r\n";
    let (mut http1, mut http2) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        http1.push(Client::sending(&https, ask).await);
        let mut unread = Frames::connect(&https, NO_WINDOW).await;
        unread
            .send(&frames::request(1, frames::GET, &[("x-large", "1")]))
            .await;
        http2.push(unread);
    }
    let good = https.from("127.0.0.2");
    let caller = |version| Caller::new(&good, version, SERVER_ID).with("x-quick", "1");
    gets(caller)
        .await
        .is_well("large answers that nobody reads");
}
