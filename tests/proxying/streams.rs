use std::{collections::BTreeMap, sync::Arc, time::Duration};

use harness::{
    PATIENCE, Stack,
    frames::{self, DATA, END_STREAM, Frames, HEADERS, frame},
    https::{Https, get},
    scripted::{Scripted, ScriptedPeer},
    upstream::{self, Http},
    wait,
};
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serve::body;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::holding::{Holding, QUICK};

/// The number of streams that a caller opens at most on one connection.
const STREAMS: u32 = 150;

/// Sets SETTINGS_MAX_CONCURRENT_STREAMS of an upstream.
fn taking(streams: u32) -> impl Fn(&mut Http) {
    move |http| {
        http.http2().max_concurrent_streams(streams);
    }
}

/// Sends `count` GETs of `/?slow` and returns once the proxy has read all of them.
async fn slow(https: &Https, count: u32) -> Vec<Frames> {
    let mut connections = Vec::new();
    for first in (0..count).step_by(STREAMS as usize) {
        let mut connection = Frames::connect(https, b"").await;
        let here = STREAMS.min(count - first);
        let requests: Vec<u8> = (0..here)
            .flat_map(|n| frames::request(2 * n + 1, b"", &target("/?slow")))
            .collect();
        connection.send(&requests).await;
        is_read(&mut connection, 2 * here + 1).await;
        connections.push(connection);
    }
    connections
}

/// Sends a request that the proxy answers by itself, and waits for the answer. By then the proxy
/// has read all requests before it.
async fn is_read(connection: &mut Frames, stream: u32) {
    let request = frames::request(stream, b"", &target("/nowhere"));
    connection.send(&request).await;
    connection.until(HEADERS, stream).await;
}

fn target(path: &str) -> [(&str, &str); 4] {
    [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "a"),
        (":path", path),
    ]
}

async fn another_is_quick(https: &Https, what: &str) {
    let other = https.from("127.0.0.2");
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let answer = timeout(QUICK, other.send_over(version, get(&[]))).await;
        let answer = answer.unwrap_or_else(|_| panic!("{what} {version:?}"));
        assert_eq!(answer.status, 200, "{what} {version:?}");
    }
}

#[tokio::test]
async fn another_caller_is_answered_next_to_1800_slow_requests() {
    for (streams, count) in [(200, 1800), (100, 1800), (50, 1800), (1000, 1800)] {
        let mut holding = Holding::new(&["h2"], "30s", taking(streams)).await;
        let _slow = slow(&holding.https, count).await;
        let what = format!("{count} slow ones, {streams} on each connection");
        holding.arrive(count as usize, &what).await;
        another_is_quick(&holding.https, &what).await;
    }
}

#[tokio::test]
async fn another_caller_is_answered_next_to_1800_slow_requests_over_http1() {
    const COUNT: u32 = 1800;
    harness::process::allow_open_files(4096);
    for alpn in [&["http/1.1"][..], &["h2", "http/1.1"]] {
        let mut holding = Holding::new(alpn, "30s", taking(200)).await;
        let _slow = slow(&holding.https, COUNT).await;
        holding.arrive(COUNT as usize, "slow ones").await;
        another_is_quick(&holding.https, &format!("{alpn:?}")).await;
    }
}

/// The proxy has no connection to the upstream when all of these requests come.
#[tokio::test]
async fn another_caller_is_answered_that_comes_with_a_burst_of_slow_requests() {
    for (streams, count) in [(1, 30), (2, 100), (20, 150), (100, 150)] {
        let holding = Holding::new(&["h2"], "30s", taking(streams)).await;
        let mut flood = Frames::connect(&holding.https, b"").await;
        let mut other = Frames::connect(&holding.https.from("127.0.0.2"), b"").await;
        let requests: Vec<u8> = (0..count)
            .flat_map(|n| frames::request(2 * n + 1, b"", &target("/?slow")))
            .collect();
        flood.send(&requests).await;
        other.send(&frames::request(1, b"", &target("/"))).await;
        let answer = timeout(QUICK, other.until(HEADERS, 1)).await;
        let what = format!("{count} slow ones, {streams} on each connection");
        let answer = answer.unwrap_or_else(|_| panic!("{what}: no answer"));
        // HPACK has one octet for the status 200.
        assert_eq!(answer.payload[0], 0x88, "{what}: another status than 200");
    }
}

/// Opens an HTTP/2 connection.
async fn connection(https: &Https) -> SendRequest<Empty<Bytes>> {
    let io = TokioIo::new(https.connect(b"h2").await);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Sends `count` GETs of this path on one connection and returns their pending answers.
async fn many(https: &Https, path: &str, count: usize) -> JoinSet<Response<Incoming>> {
    let sender = connection(https).await;
    let mut answers = JoinSet::new();
    for _ in 0..count {
        let mut sender = sender.clone();
        let request = Request::get(format!("https://localhost{path}"));
        let request = request.body(Empty::new()).unwrap();
        answers.spawn(async move { sender.send_request(request).await.unwrap() });
    }
    answers
}

/// The number of connections that one core has at most to one upstream.
const CONNECTIONS: usize = 64;

#[tokio::test]
async fn requests_beyond_all_streams_are_answered_with_503_after_the_queue_timeout() {
    for (streams, count) in [(2, 200), (1, 100)] {
        // All connections are opened in this time.
        let mut holding = Holding::new(&["h2"], "3s", taking(streams)).await;
        let room = CONNECTIONS * streams as usize;
        let asked = Instant::now();
        let mut answers = many(&holding.https, "/?slow", count).await;
        let mut statuses = BTreeMap::<u16, usize>::new();
        for _ in room..count {
            let answer = timeout(PATIENCE, answers.join_next()).await;
            let answer = answer.expect("is refused in time").unwrap().unwrap();
            let passed = asked.elapsed();
            assert!(passed >= Duration::from_secs(3), "{passed:?} {answer:?}");
            assert!(answer.headers().contains_key("retry-after"), "{answer:?}");
            *statuses.entry(answer.status().as_u16()).or_default() += 1;
        }
        assert_eq!(statuses, BTreeMap::from([(503, count - room)]), "{streams}");
        // The upstream has received all other requests and answers them.
        holding
            .arrive(room, &format!("{streams} on each connection"))
            .await;
        holding.release(room);
        for answer in answers.join_all().await {
            assert_eq!(answer.status(), 200, "{streams}");
        }
        another_is_quick(&holding.https, "afterwards").await;
    }
}

#[tokio::test]
async fn sources_that_wait_for_a_stream_are_served_in_turn() {
    for (streams, others) in [(2, 1), (2, 3), (1, 2)] {
        let mut holding = Holding::new(&["h2"], "30s", taking(streams)).await;
        let room = CONNECTIONS * streams as usize;
        let _slow = slow(&holding.https, 1800).await;
        holding
            .arrive(room, &format!("{streams} on each connection"))
            .await;
        let mut waiting = Vec::new();
        for number in 0..others {
            let other = holding.https.from(&format!("127.0.0.{}", 2 + number));
            let mut connection = Frames::connect(&other, b"").await;
            let request = frames::request(1, b"", &target("/?other"));
            connection.send(&request).await;
            is_read(&mut connection, 3).await;
            waiting.push(connection);
        }
        let mut came = Vec::new();
        // Each source is served once before the flood is served twice. One request may be in flight
        // already.
        for _ in 0..others + 2 {
            holding.release(1);
            came.push(holding.arrives().await);
        }
        let served = came.iter().filter(|query| *query == "other").count();
        assert_eq!(served, others, "{streams} streams: {came:?}");
    }
}

/// This payload sets SETTINGS_MAX_CONCURRENT_STREAMS to 20 (RFC 9113 §6.5.2).
const TWENTY: &[u8] = &[0, 3, 0, 0, 0, 20];

/// The reason why an answer takes long.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Long {
    /// The whole answer comes late.
    LateHead,
    /// The body comes late and the head at once.
    LateBody,
}

/// Runs an upstream that allows 20 requests at once on a connection. It holds the first 100
/// requests until they are released, and answers any other one at once.
struct First100 {
    upstream: Scripted,
    /// The number of held requests that have come.
    came: watch::Receiver<usize>,
    release: watch::Sender<bool>,
}

impl First100 {
    async fn new(stack: &Stack, long: Long) -> Self {
        let (release, released) = watch::channel(false);
        let (sender, came) = watch::channel(0);
        let sender = Arc::new(sender);
        let upstream = Scripted::with(stack, TWENTY, move |peer| {
            let (came, released) = (Arc::clone(&sender), released.clone());
            async move {
                let _ = serve_100(peer, long, &came, released).await;
            }
        })
        .await;
        Self {
            upstream,
            came,
            release,
        }
    }

    /// Waits until the first 100 requests have come.
    async fn all_come(&mut self, what: &str) {
        let all = self.came.wait_for(|came| *came == 100);
        let all = timeout(PATIENCE, all).await.is_ok();
        assert!(all, "{what}: {} came", *self.came.borrow());
    }
}

async fn serve_100(
    mut peer: ScriptedPeer,
    long: Long,
    came: &watch::Sender<usize>,
    mut released: watch::Receiver<bool>,
) -> Option<()> {
    let mut held = Vec::new();
    loop {
        let asked = tokio::select! {
            asked = peer.asked() => asked?,
            () = wait::until_true(&mut released), if !held.is_empty() => {
                for stream in held.drain(..) {
                    peer.send(answer(stream, long == Long::LateHead)).await;
                }
                continue;
            }
        };
        if held.len() == 20 {
            // Servers refuse streams over their limit with this frame (RFC 9113 §5.1.2).
            let refused = frames::reset(asked.stream, frames::REFUSED_STREAM);
            peer.send(refused).await;
        } else if came.send_if_modified(is_one_of_100) {
            held.push(asked.stream);
            let head = frames::head(asked.stream, 0, &[(":status", "200")]);
            if long == Long::LateBody {
                peer.send(head).await;
            }
        } else {
            peer.send(answer(asked.stream, true)).await;
        }
    }
}

/// Counts another request, up to 100, and returns whether it is one of them.
fn is_one_of_100(came: &mut usize) -> bool {
    let is_one = *came < 100;
    *came += usize::from(is_one);
    is_one
}

/// Returns the frames of an answer with the body `ended`, with or without its head.
fn answer(stream: u32, has_head: bool) -> Vec<u8> {
    let head = if has_head {
        frames::head(stream, 0, &[(":status", "200")])
    } else {
        Vec::new()
    };
    [head, frame(DATA, END_STREAM, stream, b"ended")].concat()
}

#[tokio::test]
async fn short_get_is_answered_next_to_100_long_answers_where_connections_take_20() {
    for long in [Long::LateHead, Long::LateBody] {
        let stack = Stack::new().await;
        let mut first = First100::new(&stack, long).await;
        let proxy = stack.proxy(first.upstream.port, &["--cores", "1"]).await;
        let https = stack.https(proxy.listening().await);
        let _long = slow(&https, 100).await;
        first.all_come(&format!("{long:?}")).await;
        another_is_quick(&https, &format!("{long:?}")).await;
        first.release.send(true).unwrap();
        another_is_quick(&https, &format!("{long:?} released")).await;
    }
}

#[tokio::test]
async fn all_of_100_long_answers_come_where_connections_take_20() {
    for long in [Long::LateHead, Long::LateBody] {
        let stack = Stack::new().await;
        let first = First100::new(&stack, long).await;
        let proxy = stack.proxy(first.upstream.port, &["--cores", "1"]).await;
        let https = stack.https(proxy.listening().await);
        let mut answers = many(&https, "/?slow", 100).await;
        if long == Long::LateHead {
            first.release.send(true).unwrap();
        }
        let mut heads = Vec::new();
        while let Some(answer) = timeout(PATIENCE, answers.join_next())
            .await
            .expect("all come in time")
        {
            heads.push(answer.unwrap());
        }
        another_is_quick(&https, &format!("{long:?}")).await;
        first.release.send(true).unwrap();
        for head in heads {
            assert_eq!(head.status(), 200, "{long:?}");
            let body = timeout(PATIENCE, head.into_body().collect()).await;
            assert_eq!(
                body.expect("comes in time").unwrap().to_bytes(),
                "ended",
                "{long:?}"
            );
        }
    }
}

#[tokio::test]
async fn all_of_100_unread_answers_come_where_connections_take_20() {
    let stack = Stack::new().await;
    let large = Bytes::from(vec![b'x'; 1024 * 1024]);
    let body = large.clone();
    let upstream = upstream::answering_with(&stack, &["h2"], taking(20), move |request| {
        let large = body.clone();
        async move {
            match request.uri().query() {
                Some(_) => Response::new(body::Body::full(large)),
                None => body::text(StatusCode::OK, "short"),
            }
        }
    })
    .await;
    let proxy = stack.proxy(upstream, &["--cores", "1"]).await;
    let https = stack.https(proxy.listening().await);
    let mut answers = many(&https, "/?large", 100).await;
    let mut heads = Vec::new();
    while let Some(answer) = answers.join_next().await {
        heads.push(answer.unwrap());
    }
    another_is_quick(&https, "unread").await;
    let mut bodies = JoinSet::new();
    for head in heads {
        assert_eq!(head.status(), 200);
        bodies.spawn(async move { head.into_body().collect().await.unwrap().to_bytes() });
    }
    let bodies = timeout(PATIENCE, bodies.join_all())
        .await
        .expect("all come in time");
    assert!(bodies.iter().all(|body| *body == large));
}
