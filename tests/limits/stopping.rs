use std::time::Duration;

use harness::{
    PATIENCE, Stack,
    https::{Https, get},
    process::Process,
    upstream,
};
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::Signal;
use serve::body::Body;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

const LENGTH: usize = 4 * 1024 * 1024;

/// A body of this length fills the kernel's buffers, in bytes.
const MORE: usize = 16 * 1024 * 1024;

/// A caller pauses for `pause` after each `bytes` bytes.
#[derive(Clone, Copy)]
struct Pace {
    bytes: usize,
    pause: Duration,
}

/// Starts a proxy in front of an upstream whose answer has this length.
async fn proxy(stack: &Stack, alpn: &str, length: usize) -> (Process, Https) {
    let upstream = upstream::answering(stack, &[alpn], move |_| async move {
        Response::new(Body::full(Bytes::from(vec![b'a'; length])))
    })
    .await;
    let proxy = stack.proxy(upstream, &["--drain-timeout", "20s"]).await;
    let https = stack.https(proxy.listening().await);
    (proxy, https)
}

/// Sends a request over `version`, with small windows and buffers.
async fn ask(https: &Https, version: Version) -> Incoming {
    const WINDOW: u32 = 64 * 1024;
    let request = |uri: &str| {
        let request = Request::get(uri).header("host", "localhost");
        request.body(Empty::<Bytes>::new()).unwrap()
    };
    let answer = match version {
        Version::HTTP_2 => {
            let io = TokioIo::new(https.connect(b"h2").await);
            let mut http2 = http2::Builder::new(TokioExecutor::new());
            http2
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW);
            let (mut sender, connection) = http2.handshake(io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request("https://localhost/")).await
        }
        _ => {
            let io = TokioIo::new(https.connect(b"http/1.1").await);
            let mut http1 = http1::Builder::new();
            http1.max_buf_size(WINDOW as usize);
            let (mut sender, connection) = http1.handshake(io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request("/")).await
        }
    };
    answer.unwrap().into_body()
}

/// Reads an answer to its end and returns its length.
async fn read(mut body: Incoming, pace: Pace) -> usize {
    let (mut length, mut paused) = (0, 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.unwrap_or_else(|error| panic!("broken after {length}: {error:?}"));
        length += frame.data_ref().map_or(0, Bytes::len);
        if length - paused >= pace.bytes {
            paused = length;
            sleep(pace.pause).await;
        }
    }
    length
}

/// Stops a proxy while callers read, each of which must get all of its answer.
async fn all_arrives(version: Version, callers: usize, pace: Pace) {
    let stack = Stack::new().await;
    for alpn in ["h2", "http/1.1"] {
        let (mut proxy, https) = proxy(&stack, alpn, LENGTH).await;
        let mut bodies = Vec::new();
        for _ in 0..callers {
            bodies.push(ask(&https, version).await);
        }
        let mut reading: JoinSet<_> = bodies.into_iter().map(|body| read(body, pace)).collect();
        proxy.signal(Signal::SIGTERM);
        proxy.logged("stopping: finishing what is in flight").await;
        assert!(
            reading.try_join_next().is_none(),
            "{alpn}: all still read when the proxy stops"
        );
        let all = timeout(PATIENCE, reading.join_all()).await;
        assert_eq!(
            all.expect("all arrives in time"),
            vec![LENGTH; callers],
            "{alpn}"
        );
        assert_eq!(proxy.ended().await.code(), Some(0), "{alpn}");
        let log = proxy.log().join("\n");
        assert!(!log.contains("drain timeout passed"), "{log}");
    }
}

/// 4 MiB take some two seconds.
const SLOWLY: Pace = Pace {
    bytes: 64 * 1024,
    pause: Duration::from_millis(30),
};

/// 16 MiB take some two seconds.
const FASTER: Pace = Pace {
    bytes: 256 * 1024,
    ..SLOWLY
};

/// Pauses for longer than an idle connection is kept during a stop.
const WITH_PAUSES: Pace = Pace {
    bytes: 1024 * 1024,
    pause: Duration::from_millis(1500),
};

#[tokio::test]
async fn an_http1_caller_that_reads_slowly_gets_every_byte_through_a_stop() {
    all_arrives(Version::HTTP_11, 1, SLOWLY).await;
}

#[tokio::test]
async fn an_http2_caller_that_reads_slowly_gets_every_byte_through_a_stop() {
    all_arrives(Version::HTTP_2, 1, SLOWLY).await;
}

#[tokio::test]
async fn http1_callers_that_pause_get_every_byte_through_a_stop() {
    all_arrives(Version::HTTP_11, 10, WITH_PAUSES).await;
}

#[tokio::test]
async fn http2_callers_that_pause_get_every_byte_through_a_stop() {
    all_arrives(Version::HTTP_2, 10, WITH_PAUSES).await;
}

#[tokio::test]
async fn a_slow_reader_next_to_an_idle_connection_gets_every_byte_through_a_stop() {
    let stack = Stack::new().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let (mut proxy, https) = proxy(&stack, "h2", MORE).await;
        let _idle = (https.connect(b"h2").await, https.connect(b"http/1.1").await);
        assert_eq!(https.send(get(&[])).await.body.len(), MORE);
        let reading = tokio::spawn(read(ask(&https, version).await, FASTER));
        proxy.signal(Signal::SIGTERM);
        assert_eq!(reading.await.unwrap(), MORE, "{version:?}");
        assert_eq!(proxy.ended().await.code(), Some(0), "{version:?}");
    }
}
