use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use harness::{
    PATIENCE, Stack,
    frames::{
        self, DATA, END_HEADERS, END_STREAM, Frame, Frames, HEADERS, POST, RST_STREAM,
        WINDOW_UPDATE, frame,
    },
    https::{Https, WholeAnswer, get},
    process::Process,
    raw::{Client, End},
    upstream,
};
use http::{Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Bytes;
use serve::body::{self, Body};
use tokio::{
    sync::Semaphore,
    task::{JoinError, JoinHandle, yield_now},
    time::timeout,
};

use crate::next_frame;

const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// Runs a proxy in front of an upstream that holds every request until the test releases it.
struct Holding {
    release: Arc<Semaphore>,
    arrived: Arc<AtomicUsize>,
    _proxy: Process,
    https: Https,
    _stack: Stack,
}

impl Holding {
    async fn new(max_requests: &str) -> Self {
        let stack = Stack::new().await;
        let (release, arrived) = (Arc::new(Semaphore::new(0)), Arc::<AtomicUsize>::default());
        let upstream = upstream::answering(&stack, &["h2"], {
            let (release, arrived) = (Arc::clone(&release), Arc::clone(&arrived));
            move |_| {
                let (release, arrived) = (Arc::clone(&release), Arc::clone(&arrived));
                async move {
                    arrived.fetch_add(1, SeqCst);
                    let _ = release.acquire().await;
                    body::text(StatusCode::OK, "held")
                }
            }
        })
        .await;
        let proxy = stack
            .proxy(upstream, &["--max-requests", max_requests])
            .await;
        Self {
            release,
            arrived,
            https: stack.https(proxy.listening().await),
            _proxy: proxy,
            _stack: stack,
        }
    }

    /// Sends requests from `source`. Each is sent after the upstream has received the one before.
    async fn hold(
        &self,
        source: &str,
        version: Version,
        count: usize,
    ) -> Vec<JoinHandle<WholeAnswer>> {
        let mut held = Vec::new();
        for _ in 0..count {
            let before = self.arrived.load(SeqCst);
            let https = self.https.from(source);
            let asking = async move { https.send_over(version, get(&[])).await };
            held.push(tokio::spawn(asking));
            let arriving = async {
                while self.arrived.load(SeqCst) == before {
                    yield_now().await;
                }
            };
            timeout(PATIENCE, arriving)
                .await
                .expect("the request comes to the upstream");
        }
        held
    }
}

fn is_evicted(answer: &WholeAnswer) {
    assert_eq!(answer.status, 503);
    assert_eq!(answer.headers["retry-after"], "1");
}

async fn are_served(held: Vec<JoinHandle<WholeAnswer>>) {
    for held in held {
        let answer = held.await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), &answer.body[..]),
            (200, &b"held"[..])
        );
    }
}

/// Lets a request of a small source evict one of a large source. Returns the answer to the evicted
/// one.
async fn evicts(version: Version) -> Result<WholeAnswer, JoinError> {
    let holding = Holding::new("6").await;
    let small = holding.hold("127.0.0.2", version, 2).await;
    let mut large = holding.hold("127.0.0.3", version, 4).await;
    let newcomer = holding.hold("127.0.0.4", version, 1).await;
    let evicted = large.remove(0).await;
    assert!(large.iter().chain(&small).all(|held| !held.is_finished()));
    holding.release.close();
    are_served([small, large, newcomer].into_iter().flatten().collect()).await;
    evicted
}

#[tokio::test]
async fn the_oldest_http1_request_of_the_largest_source_is_answered_503_for_a_smaller_one() {
    for _ in 0..5 {
        is_evicted(&evicts(Version::HTTP_11).await.expect("is answered"));
    }
}

#[tokio::test]
async fn the_oldest_http2_request_of_the_largest_source_is_answered_503_for_a_smaller_one() {
    for _ in 0..5 {
        is_evicted(&evicts(Version::HTTP_2).await.expect("is answered"));
    }
}

#[tokio::test]
async fn a_source_with_the_largest_share_is_refused_more_and_evicts_no_other() {
    for version in VERSIONS {
        let holding = Holding::new("5").await;
        let small = holding.hold("127.0.0.2", version, 2).await;
        let large = holding.hold("127.0.0.3", version, 3).await;
        is_evicted(
            &holding
                .https
                .from("127.0.0.3")
                .send_over(version, get(&[]))
                .await,
        );
        assert!(large.iter().chain(&small).all(|held| !held.is_finished()));
        holding.release.close();
        are_served([small, large].into_iter().flatten().collect()).await;
    }
}

#[tokio::test]
async fn sources_with_equal_shares_evict_none_of_each_other() {
    for version in VERSIONS {
        let holding = Holding::new("4").await;
        let one = holding.hold("127.0.0.2", version, 2).await;
        let other = holding.hold("127.0.0.3", version, 2).await;
        for source in ["127.0.0.2", "127.0.0.3"] {
            is_evicted(
                &holding
                    .https
                    .from(source)
                    .send_over(version, get(&[]))
                    .await,
            );
        }
        assert!(one.iter().chain(&other).all(|held| !held.is_finished()));
        holding.release.close();
        are_served([one, other].into_iter().flatten().collect()).await;
    }
}

/// Starts a proxy in which two uploads may wait for their callers.
async fn counting(stack: &Stack) -> (Process, Https) {
    let upstream = upstream::answering(stack, &["h2"], async |request: Request<_>| {
        match request.into_body().collect().await {
            Ok(body) => body::text(StatusCode::OK, body.to_bytes().len().to_string()),
            Err(_) => body::status(StatusCode::IM_A_TEAPOT),
        }
    })
    .await;
    let proxy = stack.proxy(upstream, &["--max-requests", "2"]).await;
    let https = stack.https(proxy.listening().await);
    (proxy, https)
}

#[tokio::test]
async fn http2_uploads_of_the_largest_source_that_wait_are_evicted_and_another_kept() {
    let stack = Stack::new().await;
    let (_proxy, https) = counting(&stack).await;
    let begin = |stream| frame(HEADERS, END_HEADERS, stream, POST);
    let mut small = Frames::connect(&https.from("127.0.0.2"), &[]).await;
    small.send(&begin(1)).await;
    small.ping().await.unwrap();
    let mut flood = Frames::connect(&https, &[]).await;
    let mut evicted = Vec::new();
    for stream in [1, 3, 5, 7] {
        flood.send(&begin(stream)).await;
        note_ended(&mut flood, &mut evicted).await;
    }
    let evicting = async {
        while evicted.len() < 3 {
            note_ended(&mut flood, &mut evicted).await;
        }
    };
    timeout(Duration::from_secs(5), evicting)
        .await
        .expect("three are evicted");
    assert_eq!(
        evicted,
        [1, 3, 5],
        "the source's own oldest are evicted first"
    );
    for (http2, stream) in [(&mut small, 1), (&mut flood, 7)] {
        http2.send(&frame(DATA, END_STREAM, stream, b"hello")).await;
        assert_eq!(http2.until(DATA, stream).await.payload, b"5");
    }
}

/// Waits until the process has read what was sent. Records the streams that ended meanwhile.
async fn note_ended(http2: &mut Frames, ended: &mut Vec<u32>) {
    for frame in http2.ping().await.expect("is kept") {
        // An evicted request may be answered 503 and its stream reset.
        if [HEADERS, RST_STREAM].contains(&frame.kind) && !ended.contains(&frame.stream) {
            ended.push(frame.stream);
        }
    }
}

/// A body of this length fills the buffers between the upstream and the caller.
const LARGE: usize = 32 * 1024 * 1024;

/// Starts a proxy in which two answers may wait for their readers.
async fn large(stack: &Stack) -> (Process, Https) {
    let upstream = upstream::answering(stack, &["h2"], async |_| {
        Response::new(Body::full(Bytes::from(vec![b'a'; LARGE])))
    })
    .await;
    let url = format!("https://localhost:{upstream}");
    let args = [
        "--listen",
        "127.0.0.1:0",
        "--upstream",
        &url,
        "--max-requests",
        "2",
    ];
    let proxy = stack.spawn_with("proxy", &args, &[("RUST_LOG", "debug")]);
    let https = stack.https(proxy.listening().await);
    (proxy, https)
}

#[tokio::test]
async fn unread_http2_answers_of_the_largest_source_are_reset_and_others_kept() {
    let stack = Stack::new().await;
    let (_proxy, https) = large(&stack).await;
    let ask = |stream| frames::request(stream, frames::GET, &[]);
    let mut small = Frames::connect(&https.from("127.0.0.2"), &[]).await;
    small.send(&ask(1)).await;
    small.until(DATA, 1).await;
    let mut flood = Frames::connect(&https, &[]).await;
    // The connection's window stays open, so that only the streams' windows close.
    flood.send(&more(0)).await;
    let mut reset = Vec::new();
    for stream in [1, 3, 5, 7] {
        flood.send(&ask(stream)).await;
        let is_its = |frame: &Frame| frame.kind == DATA && frame.stream == stream;
        resets_until(&mut flood, &mut reset, is_its).await;
    }
    while reset.len() < 3 {
        resets_until(&mut flood, &mut reset, |frame| frame.kind == RST_STREAM).await;
    }
    assert_eq!(
        reset,
        [1, 3, 5],
        "the source's own oldest are evicted first"
    );
    for (http2, stream) in [(&mut small, 1), (&mut flood, 7)] {
        http2.send(&[more(0), more(stream)].concat()).await;
        let mut read = 0;
        while read < 512 * 1024 {
            let frame = next_frame(http2).await;
            assert!(frame.kind != RST_STREAM, "the others are kept");
            read += frame.payload.len();
        }
    }
}

/// Opens a window by 1 MiB.
fn more(stream: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &[0, 0x10, 0, 0])
}

/// Reads frames up to one for which `is_last` is true, and records the streams that are reset
/// meanwhile.
async fn resets_until(http2: &mut Frames, reset: &mut Vec<u32>, is_last: impl Fn(&Frame) -> bool) {
    loop {
        let frame = next_frame(http2).await;
        if frame.kind == RST_STREAM {
            reset.push(frame.stream);
        }
        if is_last(&frame) {
            return;
        }
    }
}

#[tokio::test]
async fn unread_http1_answers_of_the_largest_source_are_cut_off_and_another_kept() {
    let stack = Stack::new().await;
    let (proxy, https) = large(&stack).await;
    let mut small = Unread::new(&https.from("127.0.0.2")).await;
    let mut flood = Vec::new();
    for _ in 0..4 {
        flood.push(Unread::new(&https).await);
    }
    let evicted = async {
        let is_end = |line: &&String| line.contains("connection ended");
        while proxy.log().iter().filter(is_end).count() < 3 {
            yield_now().await;
        }
    };
    timeout(PATIENCE, evicted)
        .await
        .expect("three of five are evicted");
    let mut cut = 0;
    for unread in &mut flood {
        cut += usize::from(!unread.is_whole().await);
    }
    assert_eq!(cut, 3, "all but one answer of the flood are cut off");
    assert!(
        small.is_whole().await,
        "the answer of another source is kept"
    );
}

/// Holds an answer of which only the beginning was read.
struct Unread {
    client: Client,
    read: usize,
}

impl Unread {
    /// Sends requests until one is not refused, because the answers before it may still be in
    /// flight.
    async fn new(https: &Https) -> Self {
        let ask = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        loop {
            let mut client = Client::sending(https, ask).await;
            let read = client.read_some(1).await;
            if read > 1024 {
                return Self { client, read };
            }
        }
    }

    /// Reads the rest. An answer that is not whole must be visibly broken.
    async fn is_whole(&mut self) -> bool {
        let (rest, end) = self.client.end().await;
        let is_whole = self.read + rest.len() > LARGE;
        assert!(
            is_whole || end == End::Abrupt,
            "the answer is visibly broken"
        );
        is_whole
    }
}
