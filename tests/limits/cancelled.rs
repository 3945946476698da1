use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use harness::{
    PATIENCE, Stack,
    frames::{
        CANCEL, DATA, END_STREAM, ENHANCE_YOUR_CALM, Frames, GET, HEADERS, PING, RST_STREAM, frame,
        goaway, head, request, reset,
    },
    https::{Https, WholeAnswer},
    process::Process,
    scripted::{Scripted, ScriptedPeer},
    wait,
};
use http::{Request, Version};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

/// The answers of the upstream to GETs, which are the requests that are cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing comes.
    Silent,
    /// The head comes and a part of the body.
    Begun,
}

const KINDS: [Kind; 2] = [Kind::Silent, Kind::Begun];

/// SETTINGS without a limit of streams, and with one of 100 (RFC 9113 §6.5.2).
const SETTINGS: [&[u8]; 2] = [b"", &[0, 3, 0, 0, 0, 100]];

/// Netty's servers end a connection for more resets than this.
const RESETS: usize = 200;
const RESETS_WITHIN: Duration = Duration::from_secs(30);

/// Records what came over each connection of the upstream, by its number.
#[derive(Clone, Debug, Default)]
struct Seen {
    cancelled: usize,
    resets: usize,
    /// The bodies of POSTs.
    posts: Vec<String>,
    has_ended: bool,
}

/// Runs a proxy before an upstream that answers POSTs at once, except those with the body `hold`.
struct Abused {
    proxy: Process,
    https: Https,
    seen: watch::Receiver<BTreeMap<usize, Seen>>,
    release: watch::Sender<bool>,
    _upstream: Scripted,
    _stack: Stack,
}

impl Abused {
    async fn new(kind: Kind, settings: &'static [u8]) -> Self {
        let stack = Stack::new().await;
        let (release, released) = watch::channel(false);
        let (sender, seen) = watch::channel(BTreeMap::new());
        let record = Record(Arc::new(Mutex::new(sender)));
        let upstream = Scripted::with(&stack, settings, move |peer| {
            let (record, released) = (record.clone(), released.clone());
            async move {
                let number = peer.number;
                let _ = serve(peer, kind, &record, released).await;
                record.note(number, |seen| seen.has_ended = true);
            }
        })
        .await;
        let proxy = stack.proxy(upstream.port, &["--cores", "1"]).await;
        Self {
            https: stack.https(proxy.listening().await),
            proxy,
            seen,
            release,
            _upstream: upstream,
            _stack: stack,
        }
    }

    /// Waits until the upstream has seen what `is_so` says.
    async fn wait(&self, what: &str, is_so: impl Fn(&BTreeMap<usize, Seen>) -> bool) {
        let mut seen = self.seen.clone();
        let came = timeout(PATIENCE, seen.wait_for(|seen| is_so(seen))).await;
        let came = came.is_ok_and(|came| came.is_ok());
        assert!(came, "{what}: {:?}", *self.seen.borrow());
    }

    /// Sends a POST from another address. The upstream holds it.
    async fn holds_one(&self) -> JoinHandle<WholeAnswer> {
        let https = self.https.from("127.0.0.2");
        let held = tokio::spawn(async move { post(&https, "hold").await });
        let is_held = |seen: &Seen| seen.posts.iter().any(|post| post == "hold");
        self.wait("the request is held", |seen| seen.values().any(is_held))
            .await;
        held
    }

    /// Sends a POST from another address. It must be answered.
    async fn another_is_served(&self, what: &str) {
        let answer = post(&self.https.from("127.0.0.2"), "now").await;
        assert_eq!(answer.status, 200, "{what}: {:?}", self.proxy.log().last());
    }

    /// Releases the request that is held. It must be answered.
    async fn held_is_served(&self, held: JoinHandle<WholeAnswer>, what: &str) {
        assert!(!held.is_finished(), "{what}: {held:?}");
        self.release.send(true).unwrap();
        let answer = timeout(PATIENCE, held).await.expect("answers in time");
        assert_eq!(answer.unwrap().status, 200, "{what}");
    }
}

/// A POST is not sent again when its connection breaks, so that a caller sees each break.
async fn post(https: &Https, body: &'static str) -> WholeAnswer {
    let post = Request::post("/").body(Full::<Bytes>::from(body)).unwrap();
    https.send_over(Version::HTTP_2, post).await
}

#[derive(Clone)]
struct Record(Arc<Mutex<watch::Sender<BTreeMap<usize, Seen>>>>);

impl Record {
    fn note(&self, number: usize, change: impl FnOnce(&mut Seen)) {
        let sender = self.0.lock().unwrap();
        sender.send_modify(|all| change(all.entry(number).or_default()));
    }
}

/// Serves a connection as Netty does: too many resets end it.
async fn serve(
    mut peer: ScriptedPeer,
    kind: Kind,
    record: &Record,
    mut released: watch::Receiver<bool>,
) -> Option<()> {
    let number = peer.number;
    let (mut held, mut resets) = (Vec::new(), VecDeque::new());
    record.note(number, |_| ());
    loop {
        let next = tokio::select! {
            next = peer.next() => next?,
            () = wait::until_true(&mut released), if !held.is_empty() => {
                for stream in held.drain(..) {
                    peer.send(answer(stream, END_STREAM)).await;
                }
                continue;
            }
        };
        match next.kind {
            HEADERS if next.flags & END_STREAM != 0 => {
                record.note(number, |seen| seen.cancelled += 1);
                if kind == Kind::Begun {
                    peer.send(answer(next.stream, 0)).await;
                }
            }
            DATA => {
                let body = String::from_utf8(next.payload).unwrap();
                match body.as_str() {
                    "hold" => held.push(next.stream),
                    _ => _ = peer.send(answer(next.stream, END_STREAM)).await,
                }
                record.note(number, |seen| seen.posts.push(body));
            }
            RST_STREAM => {
                record.note(number, |seen| seen.resets += 1);
                let now = Instant::now();
                resets.push_back(now);
                resets.retain(|at| now - *at < RESETS_WITHIN);
                if resets.len() > RESETS {
                    peer.send(goaway(next.stream, ENHANCE_YOUR_CALM)).await;
                    return None;
                }
            }
            _ => {}
        }
    }
}

/// Returns the frames of an answer. `flags` may end it.
fn answer(stream: u32, flags: u8) -> Vec<u8> {
    let head = head(stream, 0, &[(":status", "200")]);
    [head, frame(DATA, flags, stream, b"answer")].concat()
}

/// Sends this many requests at once. Cancels them when the proxy has read them, and has begun to answer them
/// if the upstream does. Returns `false` at the connection's end.
async fn cancel(http2: &mut Frames, kind: Kind, first: u32, count: u32) -> bool {
    let streams = || (first..first + count).map(|n| 2 * n + 1);
    let mut requests: Vec<u8> = streams().flat_map(|one| request(one, GET, &[])).collect();
    requests.extend(frame(PING, 0, 0, &[1; 8]));
    if !http2.send(&requests).await {
        return false;
    }
    let mut missing = match kind {
        Kind::Silent => 1,
        Kind::Begun => 1 + count,
    };
    while missing > 0 {
        match http2.next().await {
            Some(frame) if [PING, HEADERS].contains(&frame.kind) => missing -= 1,
            Some(_) => {}
            None => return false,
        }
    }
    let resets = streams().flat_map(|stream| reset(stream, CANCEL));
    http2.send(&resets.collect::<Vec<_>>()).await
}

/// Cancels requests as fast as possible.
async fn flood(https: Https, kind: Kind) {
    const AT_ONCE: u32 = 60;
    loop {
        // If the proxy ends a connection, the flood continues with another.
        let mut http2 = Frames::connect(&https, &[]).await;
        let mut first = 0;
        while cancel(&mut http2, kind, first, AT_ONCE).await {
            first += AT_ONCE;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_one_caller_cancels_end_no_connection_to_the_upstream_p144() {
    for (kind, settings) in KINDS
        .into_iter()
        .flat_map(|kind| SETTINGS.map(|one| (kind, one)))
    {
        let what = format!("{kind:?} {settings:?}");
        let abused = Abused::new(kind, settings).await;
        let held = abused.holds_one().await;
        let mut flooding = JoinSet::new();
        flooding.spawn(flood(abused.https.clone(), kind));
        let (start, mut served, mut worst) = (Instant::now(), 0, Duration::ZERO);
        while start.elapsed() < Duration::from_secs(5) || served < 10 {
            let asked = Instant::now();
            abused.another_is_served(&what).await;
            worst = worst.max(asked.elapsed());
            served += 1;
        }
        abused.held_is_served(held, &what).await;
        let cancelled: usize = abused.seen.borrow().values().map(|one| one.cancelled).sum();
        let connections = abused.seen.borrow().len();
        println!(
            "{what}: {served} next to {cancelled} over {connections} connections, worst {worst:?}"
        );
        assert!(
            cancelled > 5 * RESETS,
            "{what}: there were too few for a flood"
        );
    }
}

#[tokio::test]
async fn connection_without_a_reset_left_takes_no_requests_and_ends_with_its_last_one() {
    for kind in KINDS {
        let abused = Abused::new(kind, b"").await;
        let held = abused.holds_one().await;
        let mut http2 = Frames::connect(&abused.https, &[]).await;
        // A core has three connections to an idle upstream at most, and each may have 100 resets.
        for round in 0..10 {
            assert!(cancel(&mut http2, kind, round * 60, 60).await);
        }
        let first = |seen: &BTreeMap<usize, Seen>| seen[&0].clone();
        abused
            .wait("100 resets, and the next ones", |seen| {
                first(seen).resets > 100
            })
            .await;
        for _ in 0..10 {
            abused.another_is_served(&format!("{kind:?}")).await;
        }
        let seen = first(&abused.seen.borrow());
        assert_eq!(seen.posts, ["hold"], "{kind:?}");
        assert!(!seen.has_ended && seen.resets < 130, "{kind:?}: {seen:?}");
        abused.held_is_served(held, &format!("{kind:?}")).await;
        abused.wait("it ends", |seen| first(seen).has_ended).await;
    }
}

#[tokio::test]
async fn answers_that_end_soon_after_they_were_given_up_are_not_reset() {
    // The age at which one that has not ended is reset.
    const AGE: Duration = Duration::from_secs(1);
    let posts =
        |seen: &BTreeMap<usize, Seen>| seen.values().map(|one| one.posts.len()).sum::<usize>();
    let abused = loop {
        let abused = Abused::new(Kind::Silent, b"").await;
        let https = abused.https.clone();
        let given_up = tokio::spawn(async move { post(&https, "hold").await });
        abused.wait("it is held", |seen| posts(seen) == 1).await;
        let start = Instant::now();
        given_up.abort();
        abused.another_is_served("another").await;
        abused.release.send(true).unwrap();
        abused.another_is_served("another").await;
        abused.wait("all came", |seen| posts(seen) == 3).await;
        // On a machine that is too busy, it does not end soon.
        if start.elapsed() < AGE {
            break abused;
        }
    };
    tokio::time::sleep(AGE * 3 / 2).await;
    let seen = abused.seen.borrow().clone();
    assert!(seen.values().all(|one| one.resets == 0), "{seen:?}");
}
