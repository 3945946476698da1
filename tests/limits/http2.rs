use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use harness::{
    PATIENCE, Stack,
    frames::{
        CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frames, GET,
        HEADERS, PING, POST, PRIORITY, REFUSED_STREAM, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
        request, reset,
    },
    https::{Https, get},
    upstream::{self, ConnectionNumber},
    wait::until,
};
use http::{Request, StatusCode, Version};
use hyper::body::Incoming;
use serve::body;
use tokio::{sync::Semaphore, time::timeout};

use crate::server;

/// Returns the streams of a client, in their order.
fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|n| 2 * n + 1)
}

fn repeated(frame: &[u8], count: usize) -> Vec<u8> {
    frame.repeat(count)
}

async fn is_well(https: &Https) {
    let answer = https.send_over(Version::HTTP_2, get(&[])).await;
    assert_eq!(answer.status, 401, "others are served");
}

/// Each flood ends its connection with this code, in little memory, and the server serves others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_end_their_connection_p144() {
    const PROTOCOL_ERROR: u32 = 1;
    const COMPRESSION_ERROR: u32 = 9;
    let begun_and_reset = |stream| [request(stream, GET, &[]), reset(stream, CANCEL)].concat();
    let rapid_reset: Vec<u8> = streams(200).flat_map(begun_and_reset).collect();
    // The server resets the stream because its window overflows.
    let overflow = |stream| {
        let window = frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffffu32.to_be_bytes());
        [frame(HEADERS, END_HEADERS, stream, POST), window].concat()
    };
    let made_you_reset: Vec<u8> = streams(2000).flat_map(overflow).collect();
    let begun = frame(HEADERS, END_STREAM, 1, GET);
    let continued = frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b");
    let continuations = [begun.clone(), repeated(&continued, 20_000)].concat();
    let nothing = frame(CONTINUATION, 0, 1, &[]);
    let empty_continuations = [begun, repeated(&nothing, 20_000)].concat();
    let body = frame(HEADERS, END_HEADERS, 1, POST);
    let empty_data = [body.clone(), repeated(&frame(DATA, 0, 1, &[]), 20_000)].concat();
    // The block has a dynamic table size update to 2³⁰ (RFC 7541 §6.3), and a field that refers to
    // nothing.
    let table = frame(
        HEADERS,
        END_STREAM | END_HEADERS,
        1,
        b"\x3f\xe1\xff\xff\xff\x03\x82",
    );
    let nowhere = frame(
        HEADERS,
        END_STREAM | END_HEADERS,
        1,
        b"\xff\xff\xff\xff\x07",
    );

    // Only the deadline of a flood itself ends a connection here.
    let never = ["--header-timeout", "10m", "--idle-timeout", "10m"];
    let (_stack, server, https) = server(&never).await;
    let before = server.peak_memory();
    for (number, bytes, code) in [
        ("P144", rapid_reset, Some(ENHANCE_YOUR_CALM)),
        ("P145", made_you_reset, Some(ENHANCE_YOUR_CALM)),
        ("P146", continuations, Some(ENHANCE_YOUR_CALM)),
        ("P146 empty", empty_continuations, Some(ENHANCE_YOUR_CALM)),
        ("P147", empty_data, Some(ENHANCE_YOUR_CALM)),
        ("P152 table size", table, Some(COMPRESSION_ERROR)),
        ("P152 index", nowhere, Some(COMPRESSION_ERROR)),
        (
            "P148 PING",
            repeated(&frame(PING, 0, 0, &[1; 8]), 20_000),
            None,
        ),
        (
            "P148 SETTINGS",
            repeated(&frame(SETTINGS, 0, 0, &[]), 20_000),
            None,
        ),
        (
            "P149 PRIORITY",
            repeated(&frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 9]), 20_000),
            None,
        ),
        (
            "P149 unknown",
            repeated(&frame(0xfa, 0, 1, &[0; 9]), 20_000),
            None,
        ),
    ] {
        let ended = Frames::connect(&https, &[]).await.flood(&bytes).await;
        let right = match code {
            Some(COMPRESSION_ERROR) => {
                matches!(ended.goaway, Some(COMPRESSION_ERROR | PROTOCOL_ERROR))
            }
            code => ended.goaway == code,
        };
        assert!(right, "{number}: {ended:?}");
        is_well(&https).await;
    }
    let grown = server.peak_memory_above(before);
    assert!(grown < 16 * 1024, "the server grew by {grown} KiB");
}

#[tokio::test]
async fn caller_that_floods_and_does_not_read_takes_no_memory_p148() {
    let (_stack, server, https) = server(&["--header-timeout", "2s"]).await;
    let before = server.peak_memory();
    let settings = frame(SETTINGS, 0, 0, &[]);
    let ping = frame(PING, 0, 0, &[1; 8]);
    for (number, frame) in [("P148 SETTINGS", settings), ("P148 PING", ping)] {
        let mut http2 = Frames::connect(&https, &[]).await;
        let bytes = repeated(&frame, 1_000_000);
        let taken = http2.send_without_reading(&bytes, PATIENCE).await;
        assert!(!taken, "{number}: the connection is not closed in time");
    }
    let grown = server.peak_memory_above(before);
    assert!(grown < 8 * 1024, "the server grew by {grown} KiB");
    is_well(&https).await;
}

#[tokio::test]
async fn small_frames_of_a_body_within_reason_are_served_p147() {
    let (_stack, _server, https) = server(&[]).await;
    let mut bytes = frame(HEADERS, END_HEADERS, 1, POST);
    bytes.extend(repeated(&frame(DATA, 0, 1, b"a"), 50));
    bytes.extend(frame(DATA, END_STREAM, 1, b"a"));
    let mut http2 = Frames::connect(&https, &[]).await;
    http2.send(&bytes).await;
    let answered =
        async { while http2.next().await.expect("the connection is kept").kind != HEADERS {} };
    timeout(PATIENCE, answered).await.expect("is answered");
}

#[tokio::test]
async fn small_frames_that_are_not_read_end_their_connection_p147() {
    let stack = Stack::new().await;
    // The proxy reads no body before it is connected to the upstream.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = stack.proxy(mute.local_addr().unwrap().port(), &[]).await;
    let https = stack.https(proxy.listening().await);
    let before = proxy.peak_memory();
    let mut bytes = frame(HEADERS, END_HEADERS, 1, POST);
    bytes.extend(repeated(&frame(DATA, 0, 1, b"a"), 20_000));
    let ended = Frames::connect(&https, &[]).await.flood(&bytes).await;
    assert_eq!(ended.goaway, Some(ENHANCE_YOUR_CALM), "{ended:?}");
    let grown = proxy.peak_memory_above(before);
    assert!(grown < 8 * 1024, "the proxy grew by {grown} KiB");
}

/// The bound applies to frames that are not taken yet, and not to all that came over a connection.
#[tokio::test]
async fn any_number_of_small_bodies_is_served_p147() {
    let (_stack, _server, https) = server(&[]).await;
    let mut http2 = Frames::connect(&https, &[]).await;
    for stream in streams(3000) {
        let mut bytes = frame(HEADERS, END_HEADERS, stream, POST);
        bytes.extend(frame(DATA, 0, stream, b"a"));
        bytes.extend(frame(DATA, END_STREAM, stream, &[]));
        http2.send(&bytes).await;
        let answered =
            async { while http2.next().await.expect("the connection is kept").kind != HEADERS {} };
        timeout(PATIENCE, answered).await.expect("is answered");
    }
}

#[tokio::test]
async fn streams_over_the_bound_are_refused_and_the_others_served_p150() {
    let stack = Stack::new().await;
    let release = Arc::new(Semaphore::new(0));
    let held = upstream::answering(&stack, &["h2"], {
        let release = Arc::clone(&release);
        move |_| {
            let release = Arc::clone(&release);
            async move {
                let _ = release.acquire().await;
                body::status(StatusCode::IM_A_TEAPOT)
            }
        }
    })
    .await;
    let proxy = stack.proxy(held, &[]).await;
    let https = stack.https(proxy.listening().await);
    let mut http2 = Frames::connect(&https, &[]).await;
    let all: Vec<u8> = streams(300)
        .flat_map(|stream| request(stream, GET, &[]))
        .collect();
    http2.send(&all).await;
    let (mut refused, mut answered) = (0, 0);
    let counted = async {
        while refused + answered < 300 {
            let frame = http2.next().await.expect("the connection is kept");
            match frame.kind {
                RST_STREAM => {
                    assert_eq!(frame.payload, REFUSED_STREAM.to_be_bytes());
                    assert!(frame.stream > 400, "the first 200 are served");
                    refused += 1;
                }
                HEADERS => answered += 1,
                _ => {}
            }
            if refused == 100 {
                release.close();
            }
        }
    };
    timeout(PATIENCE, counted).await.expect("all are answered");
    assert_eq!((refused, answered), (100, 200));
}

/// Counts the requests at an upstream: those it works on now, and all. Counts its connections too.
#[derive(Default)]
struct Gauge {
    now: AtomicUsize,
    all: AtomicUsize,
    connections: AtomicUsize,
}

struct Working(Arc<Gauge>);

impl Working {
    fn new(gauge: &Arc<Gauge>, request: &Request<Incoming>) -> Self {
        let &ConnectionNumber(before) = request.extensions().get().unwrap();
        gauge.connections.fetch_max(before + 1, SeqCst);
        gauge.now.fetch_add(1, SeqCst);
        gauge.all.fetch_add(1, SeqCst);
        Self(Arc::clone(gauge))
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, SeqCst);
    }
}

/// Starts an upstream that never answers and takes one request on each connection.
async fn never_answering(stack: &Stack, gauge: &Arc<Gauge>) -> u16 {
    let gauge = Arc::clone(gauge);
    let one_at_once = |http: &mut upstream::Http| {
        http.http2().max_concurrent_streams(1);
    };
    upstream::answering_with(stack, &["h2"], one_at_once, move |request| {
        let working = Working::new(&gauge, &request);
        async move {
            let _working = working;
            std::future::pending().await
        }
    })
    .await
}

/// A core opens at most 64 connections to the upstream, and requests that were reset make it open no
/// more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_request_is_given_up_at_the_upstream_too_p151() {
    const CONNECTIONS: usize = 64;
    let stack = Stack::new().await;
    let gauge = Arc::<Gauge>::default();
    let upstream = never_answering(&stack, &gauge).await;
    let args = ["--cores", "1", "--queue-timeout", "30s"];
    let proxy = stack.proxy(upstream, &args).await;
    let https = stack.https(proxy.listening().await);
    let mut http2 = Frames::connect(&https, &[]).await;
    let all: Vec<u32> = streams(5 * CONNECTIONS as u32).collect();
    for (round, streams) in all.chunks(CONNECTIONS).enumerate() {
        let requests = streams.iter().flat_map(|&stream| request(stream, GET, &[]));
        http2.send(&requests.collect::<Vec<_>>()).await;
        // Each round but the first comes while the upstream still works on the one before.
        until(async || gauge.all.load(SeqCst) == (round + 1) * CONNECTIONS).await;
        let resets = streams.iter().flat_map(|&stream| reset(stream, CANCEL));
        http2.send(&resets.collect::<Vec<_>>()).await;
    }
    until(async || gauge.now.load(SeqCst) == 0).await;
    let connections = gauge.connections.load(SeqCst);
    assert_eq!(connections, CONNECTIONS, "each has one request at once");
}
