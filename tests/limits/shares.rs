use std::time::Duration;

use harness::{
    PATIENCE, Stack,
    frames::{self, DATA, Frames, frame},
    https::Https,
    raw::Client,
};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use serve::body::{self, Body};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::roles::{FORWARDING, ROLES, Role, Running};

/// `SETTINGS_INITIAL_WINDOW_SIZE` of 0 (RFC 9113 §6.5.2).
const NO_WINDOW: &[u8] = &[0, 4, 0, 0, 0, 0];

/// Opens 50 connections that send 200 GETs each and take no byte of an answer's body.
async fn unread(https: &Https, fields: &[(&str, &str)]) -> Vec<Frames> {
    let block = frames::block(https, frames::GET);
    let requests: Vec<u8> = (0..200)
        .flat_map(|n| frames::request(2 * n + 1, &block, fields))
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

/// Floods each role with requests whose answers nobody reads.
async fn next_to_unread(args: &[&str], with_token: bool) {
    let stack = Stack::new().await;
    for role in ROLES {
        let running = role.before_any(&stack, args).await;
        let _unread = unread(&running.https, &running.fields(with_token)).await;
        let what = format!("10000 unread answers at {role:?}");
        running.serves_next_to(&what).await;
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

/// Starts `role` in front of an upstream. The upstream answers `x-quick` at once and `x-large` with
/// [`LARGE`] bytes. It answers a POST once it has read the body, and other requests never.
async fn before_slow_upstream(role: Role, stack: &Stack, args: &[&str]) -> Running {
    let answer = async |request: Request<Incoming>| {
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
    };
    role.before(stack, args, answer).await
}

/// Returns a head over HTTP/1.1 with these fields.
fn head(start: &str, fields: &[(&str, &str)]) -> String {
    let fields = fields
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"));
    let fields: String = fields.collect();
    format!("{start} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

/// Uploads repeatedly over HTTP/1.1, 1 KiB in each `pause`.
async fn trickle(https: Https, head: String, pause: Duration) {
    loop {
        let mut client = Client::sending(&https, &head).await;
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
async fn trickle_http2(https: Https, heads: Vec<u8>, pause: Duration) {
    loop {
        let mut http2 = Frames::connect(&https, &[]).await;
        http2.send(&heads).await;
        let streams = || (0..20).map(|n| 2 * n + 1);
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
    for role in ROLES {
        let running = before_slow_upstream(role, &stack, args).await;
        for &with_token in role.floods() {
            let fields = running.fields(with_token);
            let flood = trickling(&running.https, &fields, pause);
            let what = format!("trickling uploads at {role:?}, with token: {with_token}");
            running.serves_next_to(&what).await;
            drop(flood);
        }
    }
}

/// Starts slow uploads with these fields over both versions of HTTP.
fn trickling(https: &Https, fields: &[(&str, &str)], pause: Duration) -> JoinSet<()> {
    let mut flood = JoinSet::new();
    let length = [("content-length", "9999999")];
    let head = head("POST /", &[fields, &length].concat());
    for _ in 0..100 {
        flood.spawn(trickle(https.clone(), head.clone(), pause));
    }
    let block = frames::block(https, frames::POST);
    let heads = (0..20).flat_map(|n| frames::upload(2 * n + 1, &block, fields));
    let heads: Vec<u8> = heads.collect();
    for _ in 0..5 {
        flood.spawn(trickle_http2(https.clone(), heads.clone(), pause));
    }
    flood
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
    for role in FORWARDING {
        let running = before_slow_upstream(role, &stack, &["--max-requests", "20"]).await;
        let mut flood = JoinSet::new();
        for (source, count) in sources {
            for n in 0..*count {
                let version = [Version::HTTP_11, Version::HTTP_2][n % 2];
                // Each caller repeats a request that takes the upstream long.
                let asking = running.caller(source, version);
                flood.spawn(asking.sends(usize::MAX, Method::GET, Bytes::new(), PATIENCE));
            }
        }
        let over = "more requests in flight than max-requests (20)";
        running.process.logged(over).await;
        let what = format!("slow requests at {role:?}");
        running.serves_next_to(&what).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_caller_is_served_next_to_large_answers_that_nobody_reads() {
    let stack = Stack::new().await;
    for role in FORWARDING {
        let running = before_slow_upstream(role, &stack, &["--max-requests", "20"]).await;
        let fields = [&*running.fields(true), &[("x-large", "1")]].concat();
        let block = frames::block(&running.https, frames::GET);
        let ask = head("GET /", &fields);
        let (mut http1, mut http2) = (Vec::new(), Vec::new());
        for _ in 0..40 {
            http1.push(Client::sending(&running.https, &ask).await);
            let mut unread = Frames::connect(&running.https, NO_WINDOW).await;
            let request = frames::request(1, &block, &fields);
            unread.send(&request).await;
            http2.push(unread);
        }
        let what = format!("large answers that nobody reads at {role:?}");
        running.serves_next_to(&what).await;
    }
}
