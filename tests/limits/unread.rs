use std::time::Duration;

use harness::{
    Stack,
    frames::{
        ACK, DATA, END_STREAM, Frames, GET, HEADERS, PING, RST_STREAM, WINDOW_UPDATE, block, frame,
        request,
    },
    https::Https,
    raw::Client,
    upstream,
};
use http::Response;
use hyper::body::Bytes;
use serve::body::Body;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    next_frame,
    roles::{ROLES, Role},
};

/// The most that a process may grow by for one connection, in KiB.
const MEMORY: usize = 32 * 1024;

/// This many bytes fill all buffers between a caller and its upstream.
const MORE_THAN_BUFFERS: usize = 64 * 1024 * 1024;

/// Sends each request repeatedly to each role and reads no answer.
async fn stops_reading(requests: &[String]) {
    let mut floods = JoinSet::new();
    for role in ROLES {
        floods.spawn(role_stops_reading(role, requests.to_vec()));
    }
    floods.join_all().await;
}

/// Sends each request repeatedly and reads no answer. The process must stop reading, and must not
/// keep the answers.
async fn role_stops_reading(role: Role, requests: Vec<String>) {
    let stack = Stack::new().await;
    let running = role.before_any(&stack, &[]).await;
    let credential = running.fields(true);
    let token: String = credential
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    for request in requests {
        let request = request.replace("TOKEN\r\n", &token);
        let before = running.process.peak_memory();
        let mut client = Client::new(&running.https).await;
        let sent = client
            .send_ahead(request.as_bytes(), MORE_THAN_BUFFERS)
            .await;
        let grown = running.process.peak_memory_above(before);
        let start = format!("{role:?}: {}", request.lines().next().unwrap());
        println!("{start}: {sent} bytes were taken, it grew by {grown} KiB");
        assert!(
            sent < MORE_THAN_BUFFERS,
            "{start}: the process continues to read"
        );
        assert!(grown <= MEMORY, "{start}: grew by {grown} KiB");
    }
}

/// Returns a request with a chunked body of one byte.
fn chunked(start: &str) -> String {
    format!("{start} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n")
}

#[tokio::test]
async fn repeated_options_with_chunked_bodies_and_unread_answers_are_no_longer_read() {
    stops_reading(&[chunked("OPTIONS *"), chunked("OPTIONS /")]).await;
}

#[tokio::test]
async fn repeated_requests_with_chunked_bodies_and_unread_answers_are_no_longer_read() {
    stops_reading(&["GET /", "POST /", "HEAD /", "TRACE /"].map(chunked)).await;
}

#[tokio::test]
async fn repeated_requests_without_bodies_and_unread_answers_are_no_longer_read() {
    let requests = ["GET /", "OPTIONS *", "DELETE /nowhere"];
    stops_reading(&requests.map(|start| format!("{start} HTTP/1.1\r\nHost: a\r\n\r\n"))).await;
}

#[tokio::test]
async fn repeated_good_requests_with_bodies_and_unread_answers_are_no_longer_read() {
    let token = "TOKEN\r\n";
    let length = "Content-Length: 5\r\n\r\nhello";
    stops_reading(&[
        format!("POST / HTTP/1.1\r\nHost: a\r\n{token}{length}"),
        chunked("POST /").replace("\r\nTrans", &format!("\r\n{token}Trans")),
        format!("PUT / HTTP/1.1\r\nHost: a\r\n{token}Expect: 100-continue\r\n{length}"),
    ])
    .await;
}

/// The number of streams leaves room for one more of the 200 that a connection may have.
const STREAMS: u32 = 199;

const SOON: Duration = Duration::from_secs(1);

/// Opens streams with a window of `window` bytes. Each must be reset after `--body-timeout`, and the
/// connection must be kept.
async fn are_reset(https: &Https, window: u8, fields: &[(&str, &str)]) {
    let settings = [0, 4, 0, 0, 0, window];
    let mut http2 = Frames::connect(https, &settings).await;
    let streams = (0..STREAMS).map(|n| 2 * n + 1);
    let get = block(https, GET);
    let requests: Vec<u8> = streams
        .flat_map(|stream| request(stream, &get, fields))
        .collect();
    let start = Instant::now();
    http2.send(&requests).await;
    let (mut answered, mut reset, mut bytes) = (0, 0, 0);
    while reset < STREAMS {
        let frame = next_frame(&mut http2).await;
        match frame.kind {
            HEADERS => answered += 1,
            DATA => bytes += frame.payload.len(),
            RST_STREAM => {
                assert!(
                    start.elapsed() >= SOON,
                    "the stream is reset too early: {frame:?}"
                );
                reset += 1;
            }
            PING if frame.flags != ACK => {
                http2.send(&pong(&frame.payload)).await;
            }
            _ => {}
        }
    }
    println!("all reset after {:?}", start.elapsed());
    assert_eq!(
        (answered, bytes),
        (STREAMS, STREAMS as usize * usize::from(window))
    );
    assert!(start.elapsed() < SOON * 10, "{:?}", start.elapsed());
    is_kept(&mut http2, &get, fields).await;
}

fn pong(payload: &[u8]) -> Vec<u8> {
    frame(PING, 1, 0, payload)
}

/// Sends another request, and reads the answer to its end or up to 32 KiB.
async fn is_kept(http2: &mut Frames, get: &[u8], fields: &[(&str, &str)]) {
    let next = 2 * STREAMS + 1;
    let window = frame(WINDOW_UPDATE, 0, next, &(64 * 1024_u32).to_be_bytes());
    http2
        .send(&[request(next, get, fields), window].concat())
        .await;
    http2.until(HEADERS, next).await;
    let mut read = 0;
    loop {
        let frame = http2.until(DATA, next).await;
        read += frame.payload.len();
        if frame.flags & END_STREAM != 0 || read >= 32 * 1024 {
            return;
        }
    }
}

#[tokio::test]
async fn streams_of_a_caller_with_a_window_of_a_byte_are_reset_by_the_server() {
    let stack = Stack::new().await;
    let server = stack.server(&["--body-timeout", "1s"]).await;
    let https = stack.https(server.listening().await);
    let token = stack.bearer();
    for window in [1, 0, 9] {
        are_reset(&https, window, &[("authorization", &token)]).await;
        are_reset(&https, window, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_caller_with_a_window_of_a_byte_are_reset_by_the_proxy() {
    let stack = Stack::new().await;
    for alpn in ["h2", "http/1.1"] {
        let upstream = upstream::answering(&stack, &[alpn], async |_| {
            Response::new(Body::full(Bytes::from(vec![b'a'; 1024 * 1024])))
        })
        .await;
        let proxy = stack.proxy(upstream, &["--body-timeout", "1s"]).await;
        let https = stack.https(proxy.listening().await);
        for window in [1, 0] {
            are_reset(&https, window, &[]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_caller_with_a_window_of_a_byte_are_reset_by_server_and_client() {
    let stack = Stack::new().await;
    for role in [Role::Server("http"), Role::Server("h2c"), Role::Client] {
        let answer = async |_| Response::new(Body::full(Bytes::from(vec![b'a'; 1024 * 1024])));
        let running = role.before(&stack, &["--body-timeout", "1s"], answer).await;
        for window in [1, 0] {
            are_reset(&running.https, window, &running.fields(true)).await;
        }
    }
}

#[tokio::test]
async fn streams_of_a_caller_that_takes_a_byte_at_a_time_are_reset() {
    const STREAMS: u32 = 10;
    let stack = Stack::new().await;
    let upstream = upstream::answering(&stack, &["h2"], async |_| {
        Response::new(Body::full(Bytes::from(vec![b'a'; 1024 * 1024])))
    })
    .await;
    let proxy = stack.proxy(upstream, &["--body-timeout", "1s"]).await;
    let https = stack.https(proxy.listening().await);
    let mut http2 = Frames::connect(&https, &[0, 4, 0, 0, 0, 1]).await;
    let streams = || (0..STREAMS).map(|n| 2 * n + 1);
    let requests: Vec<u8> = streams()
        .flat_map(|stream| request(stream, GET, &[]))
        .collect();
    http2.send(&requests).await;
    let (start, mut reset) = (Instant::now(), 0);
    while reset < STREAMS {
        let frame = next_frame(&mut http2).await;
        match frame.kind {
            RST_STREAM => reset += 1,
            // Each stream takes some ten bytes a second.
            DATA => {
                sleep(Duration::from_millis(10)).await;
                let one = harness::frames::frame(WINDOW_UPDATE, 0, frame.stream, &[0, 0, 0, 1]);
                http2.send(&one).await;
            }
            _ => {}
        }
        assert!(start.elapsed() < SOON * 10, "{reset} are reset");
    }
}
