use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use harness::{
    Stack,
    frames::{CANCEL, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, POST, frame, reset},
    https::Https,
    process::Process,
    raw::Client,
};
use http::Version;
use hyper::body::Bytes;
use tokio::task::JoinSet;

use crate::caller::posts;

/// The number of connections, and of POSTs on each.
const LOAD: (usize, usize) = (32, 100);

const SMALL: Bytes = Bytes::from_static(b"hello");

/// Runs a server and a proxy in front of it, and holds clients of both.
struct Both {
    token: String,
    _processes: [Process; 2],
    server: Https,
    proxy: Https,
    _stack: Stack,
}

impl Both {
    async fn new() -> Self {
        let stack = Stack::new().await;
        let server = stack.server(&[]).await;
        let proxy = stack.proxy(server.listening().await, &[]).await;
        Self {
            token: stack.token(|_| ()),
            server: stack.https(server.listening().await),
            proxy: stack.https(proxy.listening().await),
            _processes: [server, proxy],
            _stack: stack,
        }
    }

    /// Sends small POSTs while strangers run `stranger` repeatedly.
    async fn next_to<F>(&self, stranger: impl Fn(Https) -> F + Clone + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.next_to_bodies(&SMALL, LOAD, stranger).await;
    }

    /// Sends POSTs with this body while strangers run `stranger` repeatedly.
    async fn next_to_bodies<F>(
        &self,
        body: &Bytes,
        load: (usize, usize),
        stranger: impl Fn(Https) -> F + Clone + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        const STRANGERS: usize = 4;
        let rounds = Arc::<AtomicUsize>::default();
        let mut strangers = JoinSet::new();
        for https in [&self.proxy, &self.server].repeat(STRANGERS / 2) {
            let (https, stranger, rounds) = (https.clone(), stranger.clone(), Arc::clone(&rounds));
            strangers.spawn(async move {
                loop {
                    stranger(https.clone()).await;
                    rounds.fetch_add(1, SeqCst);
                }
            });
        }
        let good = self.proxy.from("127.0.0.2");
        let (http1, http2) = tokio::join!(
            posts(&good, &self.token, Version::HTTP_11, load, body),
            posts(&good, &self.token, Version::HTTP_2, load, body),
        );
        assert!(
            rounds.load(SeqCst) >= STRANGERS,
            "the strangers are served too"
        );
        println!("next to {rounds:?} rounds of strangers: {http1:?}, {http2:?}");
        strangers.shutdown().await;
        for tally in [&http1, &http2] {
            assert!(tally.failures.is_empty(), "{tally:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_posts_over_32_connections_are_all_served() {
    let both = Both::new().await;
    for https in [&both.proxy, &both.server] {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let tally = posts(https, &both.token, version, LOAD, &SMALL).await;
            println!("{version:?}: {tally:?}");
            assert_eq!(tally.served, LOAD.0 * LOAD.1, "{version:?}: {tally:?}");
            assert_eq!(
                tally.connections, LOAD.0,
                "all connections are kept: {tally:?}"
            );
        }
    }
}

/// Returns the head of a request whose body is chunked.
fn chunked(method: &str) -> String {
    format!("{method} / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
}

const CHUNK: &str = "1\r\na\r\n";
const END: &str = "0\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posts_next_to_head_requests_with_chunked_bodies_are_all_served() {
    let both = Both::new().await;
    both.next_to(|https| async move {
        let mut client = Client::new(&https).await;
        for _ in 0..10 {
            client.send([&chunked("HEAD"), CHUNK, END].concat()).await;
            if client.answer_to("HEAD").await.is_none() {
                break;
            }
        }
        // The last body never ends.
        client.send([&chunked("HEAD"), CHUNK].concat()).await;
        client.answer_to("HEAD").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posts_next_to_bodies_of_300_one_byte_chunks_are_all_served() {
    let both = Both::new().await;
    both.next_to(|https| async move {
        let body = CHUNK.repeat(300);
        let mut client = Client::new(&https).await;
        client.send([&chunked("POST"), &body, END].concat()).await;
        client.answer().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posts_next_to_bodies_of_300_one_byte_frames_are_all_served() {
    let both = Both::new().await;
    both.next_to(|https| async move {
        let mut http2 = Frames::connect(&https, &[]).await;
        for stream in [1, 3, 5] {
            let body = frame(DATA, 0, stream, b"a").repeat(300);
            let head = frame(HEADERS, END_HEADERS, stream, POST);
            let end = frame(DATA, END_STREAM, stream, b"");
            http2.send(&[head, body, end].concat()).await;
            while http2
                .next()
                .await
                .is_some_and(|frame| frame.kind != HEADERS)
            {}
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posts_next_to_refused_posts_that_end_late_are_all_served() {
    let both = Both::new().await;
    both.next_to(|https| async move {
        let mut client = Client::new(&https).await;
        for _ in 0..10 {
            client.send([&chunked("POST"), CHUNK].concat()).await;
            if client.answer().await.is_none() {
                break;
            }
            client.send([CHUNK, END].concat()).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posts_next_to_refused_http2_posts_that_end_late_or_never_are_all_served() {
    let both = Both::new().await;
    both.next_to(|https| async move {
        let mut http2 = Frames::connect(&https, &[]).await;
        for stream in (1..60).step_by(2) {
            let head = frame(HEADERS, END_HEADERS, stream, POST);
            http2
                .send(&[head, frame(DATA, 0, stream, b"a")].concat())
                .await;
            while http2
                .next()
                .await
                .is_some_and(|frame| frame.kind != HEADERS)
            {}
            // A third of the bodies end, a third of the requests are reset, a third never end.
            let end = match stream % 3 {
                0 => frame(DATA, END_STREAM, stream, b"a"),
                1 => reset(stream, CANCEL),
                _ => Vec::new(),
            };
            http2.send(&end).await;
        }
    })
    .await;
}

/// Sends uploads while strangers send `refused` before they read the answer. The proxy sends one
/// upload at a time over a connection to the server. An upload that was answered before its end must
/// not fail the next one on that connection.
async fn uploads_next_to(refused: String) {
    let both = Both::new().await;
    let body = Bytes::from(vec![b'a'; 20 * 1024]);
    let refused = Bytes::from(refused);
    both.next_to_bodies(&body, (4, 400), move |https| {
        let refused = refused.clone();
        async move {
            Client::sending(&https, refused).await.answer().await;
        }
    })
    .await;
}

/// Returns an upload without a token, in one chunk.
fn in_a_chunk(length: usize) -> String {
    let chunk = format!("{length:x}\r\n{}\r\n", "a".repeat(length));
    [&chunked("POST"), &*chunk, END].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_next_to_refused_uploads_of_200_kib_are_all_served() {
    uploads_next_to(in_a_chunk(200 * 1024)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_next_to_refused_uploads_of_1_mib_are_all_served() {
    uploads_next_to(in_a_chunk(1024 * 1024)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_next_to_refused_uploads_of_1_mib_with_a_length_are_all_served() {
    const LENGTH: usize = 1024 * 1024;
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n");
    uploads_next_to(head + &"a".repeat(LENGTH)).await;
}
