use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use harness::{
    PATIENCE, Stack,
    frames::{DATA, END_HEADERS, Frames, HEADERS, POST, RST_STREAM, frame},
    https::Https,
    process::Process,
    raw::{Client, Message},
    upstream,
};
use http::{Method, Request, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Bytes;
use serve::body;
use tokio::{task::yield_now, time::timeout};

use crate::{SOON, caller::Caller, next_frame};

const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// The bodies of this length have an upstream connection of their own. They fit the window that an HTTP/2
/// stream has until SETTINGS are acknowledged (RFC 9113 §6.9.2), because a caller here does that late.
const LONG: usize = 60_000;

/// Counts the uploads that have come to an upstream, and the most that it had at once.
#[derive(Default)]
struct Uploads {
    all: AtomicUsize,
    now: AtomicUsize,
    most: AtomicUsize,
}

struct Counted(Arc<Uploads>);

impl Counted {
    fn new(uploads: &Arc<Uploads>) -> Self {
        uploads.all.fetch_add(1, SeqCst);
        let now = uploads.now.fetch_add(1, SeqCst) + 1;
        uploads.most.fetch_max(now, SeqCst);
        Self(Arc::clone(uploads))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, SeqCst);
    }
}

/// Runs a proxy before an upstream that reads each body to its end and answers with its length.
struct Reading {
    uploads: Arc<Uploads>,
    _proxy: Process,
    https: Https,
    _stack: Stack,
}

impl Reading {
    async fn new(alpn: &[&str], args: &[&str]) -> Self {
        let stack = Stack::new().await;
        let uploads = Arc::<Uploads>::default();
        let upstream = upstream::answering(&stack, alpn, {
            let uploads = Arc::clone(&uploads);
            move |request: Request<_>| {
                let counted = (request.method() == "POST").then(|| Counted::new(&uploads));
                async move {
                    let body = request.into_body().collect().await;
                    drop(counted);
                    let length = body.map_or(0, |body| body.to_bytes().len());
                    body::text(StatusCode::OK, length.to_string())
                }
            }
        })
        .await;
        let proxy = stack.proxy(upstream, args).await;
        Self {
            uploads,
            https: stack.https(proxy.listening().await),
            _proxy: proxy,
            _stack: stack,
        }
    }

    /// Begins uploads of this source, each one after the upstream has the one before.
    async fn begin(&self, source: &str, version: Version, count: usize) -> Vec<Upload> {
        let https = self.https.from(source);
        let mut begun = Vec::new();
        for _ in 0..count {
            let before = self.uploads.all.load(SeqCst);
            begun.push(Upload::begin(&https, version).await);
            self.come(before + 1).await;
        }
        begun
    }

    /// Waits until this many uploads have come to the upstream.
    async fn come(&self, uploads: usize) {
        let coming = async {
            while self.uploads.all.load(SeqCst) < uploads {
                yield_now().await;
            }
        };
        let came = timeout(PATIENCE, coming).await;
        came.unwrap_or_else(|_| panic!("{uploads} uploads come to the upstream"));
    }

    /// Uploads from an address that nobody else has.
    async fn another_is_served(&self, version: Version, count: usize, what: &str) {
        let other = Caller::new(&self.https.from("127.0.0.9"), version, "");
        let body = Bytes::from(vec![b'a'; LONG]);
        let tally = other
            .sends(count, Method::POST, body, Duration::from_secs(5))
            .await;
        tally.is_well(what);
    }
}

/// An upload of [`LONG`] bytes of which the half was sent.
enum Upload {
    Http1(Box<Client>),
    Http2(Frames),
}

const HALF: usize = LONG / 2;

impl Upload {
    async fn begin(https: &Https, version: Version) -> Self {
        if version == Version::HTTP_11 {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LONG}\r\n\r\n");
            let begun = [head.as_bytes(), &[b'a'; HALF]].concat();
            return Self::Http1(Client::sending(https, begun).await.into());
        }
        let mut http2 = Frames::connect(https, &[]).await;
        http2.send(&frame(HEADERS, END_HEADERS, 1, POST)).await;
        http2.send(&data(0)).await;
        Self::Http2(http2)
    }

    /// Sends the rest. Returns the body of the answer, which must be 200.
    async fn end(mut self) -> Vec<u8> {
        match &mut self {
            Self::Http1(client) => {
                client.send([b'a'; HALF]).await;
                let answer = client.answer().await.expect("is answered");
                assert_eq!(answer.status(), 200, "{answer:?}");
                answer.body
            }
            Self::Http2(http2) => {
                http2.send(&data(1)).await;
                let answer = timeout(PATIENCE, http2.until(DATA, 1)).await;
                answer.expect("is answered").payload
            }
        }
    }

    /// Waits until it is refused or broken off.
    async fn wait_until_evicted(&mut self) {
        match self {
            Self::Http1(client) => {
                let answer = client.answer().await;
                let status = answer.as_ref().map(Message::status);
                assert!(matches!(status, None | Some(503)), "{answer:?}");
            }
            Self::Http2(http2) => loop {
                let frame = next_frame(http2).await;
                match frame.kind {
                    RST_STREAM => return,
                    // It is not 200, for which HPACK has one octet.
                    HEADERS => return assert_ne!(frame.payload[0], 0x88),
                    _ => {}
                }
            },
        }
    }
}

/// Half of the body in frames. `flags` may end the stream with the last one.
fn data(flags: u8) -> Vec<u8> {
    const PART: usize = 10_000;
    let parts = HALF / PART;
    let flags = |part| if part + 1 == parts { flags } else { 0 };
    let frames = (0..parts).map(|part| frame(DATA, flags(part), 1, &[b'a'; PART]));
    frames.collect::<Vec<_>>().concat()
}

/// Bounds by which an upload has to make room: of connections of their own, and of requests at once.
const BOUNDS: [&str; 2] = ["--max-upstream-connections", "--max-requests"];

#[tokio::test]
async fn oldest_upload_of_the_largest_source_is_ended_for_an_upload_of_another() {
    for (alpn, version) in [&["h2", "http/1.1"][..], &["h2"], &["http/1.1"]]
        .into_iter()
        .flat_map(|alpn| VERSIONS.map(|version| (alpn, version)))
    {
        for bound in BOUNDS {
            let what = format!("{alpn:?} {version:?} {bound}");
            let reading = Reading::new(alpn, &[bound, "4"]).await;
            let small = reading.begin("127.0.0.3", version, 1).await;
            let mut large = reading.begin("127.0.0.2", version, 3).await;
            let newcomer = reading.begin("127.0.0.4", version, 1);
            let newcomer = async {
                let evicted = timeout(PATIENCE, large[0].wait_until_evicted());
                let (newcomer, evicted) = tokio::join!(newcomer, evicted);
                evicted.unwrap_or_else(|_| panic!("{what}: nobody made room"));
                newcomer
            }
            .await;
            for upload in large.into_iter().skip(1).chain(small).chain(newcomer) {
                assert_eq!(upload.end().await, LONG.to_string().as_bytes(), "{what}");
            }
        }
    }
}

/// A slow upload costs a caller little, and an upstream takes only so many connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_caller_uploads_next_to_more_slow_uploads_than_may_have_connections() {
    const MAX: usize = 10;
    for alpn in [&["h2", "http/1.1"][..], &["h2"], &["http/1.1"]] {
        let args = ["--max-upstream-connections", &MAX.to_string()];
        let reading = Reading::new(alpn, &args).await;
        let mut slow = reading.begin("127.0.0.2", Version::HTTP_11, MAX / 2).await;
        slow.extend(reading.begin("127.0.0.2", Version::HTTP_2, MAX / 2).await);
        // These wait for one of the others to end.
        for version in VERSIONS {
            for _ in 0..MAX {
                slow.push(Upload::begin(&reading.https.from("127.0.0.2"), version).await);
            }
        }
        for version in VERSIONS {
            let what = format!("{alpn:?} {version:?}");
            reading.another_is_served(version, 20, &what).await;
        }
        // One that is ended is gone from the upstream a moment after the next one came.
        let most = reading.uploads.most.load(SeqCst);
        assert!(most <= MAX + 2, "{alpn:?}: {most} at once");
        drop(slow);
    }
}

#[tokio::test]
async fn upload_that_waits_for_a_connection_of_its_own_is_sent_when_one_is_free() {
    for alpn in [&["h2", "http/1.1"][..], &["h2"], &["http/1.1"]] {
        let args = ["--max-upstream-connections", "2", "--queue-timeout", "30s"];
        let reading = Reading::new(alpn, &args).await;
        for version in VERSIONS {
            let mut held = reading.begin("127.0.0.2", version, 2).await;
            let waiting = Upload::begin(&reading.https.from("127.0.0.2"), version).await;
            for held in held.drain(..) {
                held.end().await;
            }
            assert_eq!(waiting.end().await, LONG.to_string().as_bytes());
        }
        assert_eq!(reading.uploads.most.load(SeqCst), 2, "{alpn:?}");
    }
}

#[tokio::test]
async fn upload_that_waits_longer_than_the_queue_timeout_is_answered_503() {
    for alpn in [&["h2", "http/1.1"][..], &["h2"], &["http/1.1"]] {
        let args = ["--max-upstream-connections", "2", "--queue-timeout", SOON];
        let reading = Reading::new(alpn, &args).await;
        for version in VERSIONS {
            let held = reading.begin("127.0.0.2", version, 2).await;
            let mut refused = Upload::begin(&reading.https.from("127.0.0.2"), version).await;
            let refusal = timeout(PATIENCE, refused.wait_until_evicted()).await;
            refusal.expect("is refused in time");
            for held in held {
                assert_eq!(held.end().await, LONG.to_string().as_bytes());
            }
        }
    }
}
