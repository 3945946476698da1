use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use harness::{
    Stack,
    https::{Https, WholeAnswer},
    process::Process,
    upstream::{self, Http},
};
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use serve::body;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};

/// The longest time of another caller's request, which takes longer on a machine that is shared.
const QUICK: Duration = Duration::from_secs(3);

/// Each request reaches its upstream in less time, even if many come at once.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// The source address of another caller.
const OTHER: &str = "127.0.0.2";

/// Holds a proxy and its upstream. The upstream neither reads nor answers a request with a query
/// until it is released. It answers any other request with the length of its body.
pub(crate) struct Holding {
    _stack: Stack,
    proxy: Process,
    pub(crate) https: Https,
    /// Each request that is held sends its query here.
    arrived: mpsc::UnboundedReceiver<String>,
    release: Arc<Semaphore>,
}

impl Holding {
    pub(crate) async fn new(alpn: &[&str], args: &[&str], change: impl FnOnce(&mut Http)) -> Self {
        let stack = Stack::new().await;
        let (sender, arrived) = mpsc::unbounded_channel();
        let release = Arc::new(Semaphore::new(0));
        let (sender, held) = (Mutex::new(sender), Arc::clone(&release));
        let upstream = upstream::answering_with(&stack, alpn, change, move |request| {
            let sender = request
                .uri()
                .query()
                .map(|query| (sender.lock().unwrap().clone(), query.to_owned()));
            let held = Arc::clone(&held);
            async move {
                if let Some((sender, query)) = sender {
                    let _ = sender.send(query);
                    held.acquire().await.unwrap().forget();
                }
                let body = request.into_body().collect().await;
                let length = body.map_or(0, |body| body.to_bytes().len());
                body::text(StatusCode::OK, length.to_string())
            }
        })
        .await;
        let args = [&["--cores", "1"], args].concat();
        let proxy = stack.proxy(upstream, &args).await;
        let https = stack.https(proxy.listening().await);
        Self {
            _stack: stack,
            proxy,
            https,
            arrived,
            release,
        }
    }

    /// Waits for the next request that is held and returns its query.
    pub(crate) async fn arrives(&mut self) -> String {
        let next = timeout(SOON, self.arrived.recv());
        next.await.expect("arrives in time").unwrap()
    }

    /// Waits for `count` requests that are held.
    pub(crate) async fn arrive(&mut self, count: usize, what: &str) {
        for number in 0..count {
            let next = timeout(SOON, self.arrived.recv()).await;
            assert!(
                next.is_ok(),
                "{what}: {number} of {count} arrived, {:?}",
                self.said()
            );
        }
    }

    /// Counts the proxy's log lines, apart from times and ports.
    fn said(&self) -> BTreeMap<String, usize> {
        let mut said = BTreeMap::new();
        for line in self.proxy.log() {
            let words = line.split(' ').skip(1).filter(|word| !word.contains(':'));
            *said.entry(words.collect::<Vec<_>>().join(" ")).or_default() += 1;
        }
        said
    }

    /// Releases `count` requests that are held or will be.
    pub(crate) fn release(&self, count: usize) {
        self.release.add_permits(count);
    }
}

/// Returns a POST with a body of `length` bytes. The upstream holds a POST with a query.
pub(crate) fn post(target: &str, length: usize) -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::from(vec![b'x'; length]));
    Request::post(target).body(body).unwrap()
}

/// Sends a request of each of these lengths and returns once all are held.
async fn hold(holding: &mut Holding, version: Version, lengths: &[usize]) -> JoinSet<WholeAnswer> {
    let mut answers = JoinSet::new();
    for &length in lengths {
        let https = holding.https.clone();
        answers.spawn(async move { https.send_over(version, post("/?hold", length)).await });
    }
    holding.arrive(lengths.len(), "unread bodies").await;
    answers
}

/// Sends POSTs of 100 bytes and of 10 KB from another address. Meanwhile the held requests fill
/// every buffer between their caller and the upstream.
async fn others_are_quick(https: &Https, what: &str) {
    let https = https.from(OTHER);
    for round in 0..15 {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            for length in [100, 10_000] {
                let asking = https.send_over(version, post("/", length));
                let answer = timeout(QUICK, asking).await;
                let answer = answer.unwrap_or_else(|_| {
                    panic!("{what}: {length} bytes in round {round} over {version:?}")
                });
                assert_eq!(answer.status, 200, "{what}");
                assert_eq!(answer.body, length.to_string(), "{what}");
            }
        }
    }
}

const BOTH: &[&str] = &["h2", "http/1.1"];
const HTTP2: &[&str] = &["h2"];
const HTTP1: &[&str] = &["http/1.1"];

/// Sets the windows to the defaults of HTTP/2 (RFC 9113 §6.9.2).
fn small_windows(http: &mut Http) {
    http.http2()
        .initial_connection_window_size(65_535)
        .initial_stream_window_size(65_535);
}

async fn unread_bodies(alpn: &[&str], lengths: &[usize], change: impl Fn(&mut Http)) {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let what = format!("{alpn:?} {} bodies over {version:?}", lengths.len());
        let mut holding = Holding::new(alpn, &[], &change).await;
        let held = hold(&mut holding, version, lengths).await;
        others_are_quick(&holding.https, &what).await;
        holding.release(lengths.len());
        let mut answered: Vec<usize> = Vec::new();
        for answer in held.join_all().await {
            assert_eq!(answer.status, 200, "{what}");
            answered.push(
                String::from_utf8(answer.body.to_vec())
                    .unwrap()
                    .parse()
                    .unwrap(),
            );
        }
        let mut expected = lengths.to_vec();
        expected.sort();
        answered.sort();
        assert_eq!(answered, expected, "{what}");
    }
}

const LARGE: usize = 2 * 1024 * 1024;

#[tokio::test]
async fn one_unread_body_of_2_mb_holds_up_no_other_post() {
    for alpn in [BOTH, HTTP2, HTTP1] {
        unread_bodies(alpn, &[LARGE], |_| ()).await;
    }
}

#[tokio::test]
async fn eight_unread_bodies_of_2_mb_hold_up_no_other_post() {
    for alpn in [BOTH, HTTP2, HTTP1] {
        unread_bodies(alpn, &[LARGE; 8], |_| ()).await;
    }
}

#[tokio::test]
async fn unread_bodies_of_2_mb_hold_up_no_other_post_where_windows_are_small() {
    for alpn in [BOTH, HTTP2] {
        unread_bodies(alpn, &[LARGE; 8], small_windows).await;
    }
}

/// Returns lengths of 1 to 8 KiB, and some near the length up to which bodies share a connection.
fn small_bodies() -> Vec<usize> {
    let near = [1, 100, 8 * 1024 - 1, 8 * 1024, 8 * 1024 + 1];
    (0..120).map(|n| 1024 + n * 59).chain(near).collect()
}

#[tokio::test]
async fn many_small_unread_bodies_hold_up_no_other_post() {
    for alpn in [BOTH, HTTP2, HTTP1] {
        unread_bodies(alpn, &small_bodies(), |_| ()).await;
    }
}

#[tokio::test]
async fn many_small_unread_bodies_hold_up_no_other_post_where_windows_are_small() {
    for alpn in [BOTH, HTTP2] {
        unread_bodies(alpn, &small_bodies(), small_windows).await;
    }
}
