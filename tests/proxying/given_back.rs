use std::sync::{Arc, Mutex};

use harness::{
    PATIENCE, Stack,
    frames::{
        self, DATA, END_STREAM, ENHANCE_YOUR_CALM, NO_ERROR, REFUSED_STREAM, frame, goaway, head,
        reset,
    },
    https::{Https, WholeAnswer},
    proxy_stack::ProxyStack,
    scripted::{Asked, Scripted, ScriptedPeer},
};
use http::{Request, Version};
use http_body_util::{BodyExt, Channel, Full, channel::Sender};
use hyper::body::Bytes;
use tokio::{sync::watch, task::JoinHandle, time::timeout};

/// Returns the frame by which an upstream gives back a request on this stream without processing
/// it.
type Refusal = fn(u32) -> Vec<u8>;

const REFUSALS: [(&str, Refusal); 4] = [
    ("REFUSED_STREAM", |stream| reset(stream, REFUSED_STREAM)),
    ("GOAWAY below", |stream| goaway(stream - 1, NO_ERROR)),
    ("GOAWAY of none", |_| goaway(0, NO_ERROR)),
    ("GOAWAY below, with an error", |stream| {
        goaway(stream - 1, ENHANCE_YOUR_CALM)
    }),
];

/// Holds a proxy and its upstream. The upstream refuses the first request and answers every other
/// one with the length of its body.
struct Refusing {
    proxied: ProxyStack<Scripted>,
    /// Each request adds the number of the connection that it came over.
    asked: watch::Receiver<Vec<usize>>,
}

/// The time at which the upstream sends its refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// The refusal follows the head of the request.
    AtOnce,
    /// The refusal follows a part of the body.
    AfterData,
}

impl Refusing {
    async fn new(refusal: Refusal, when: When) -> Self {
        let (sender, asked) = watch::channel(Vec::new());
        let sender = Arc::new(Mutex::new(sender));
        let script = move |peer| {
            let sender = Arc::clone(&sender);
            async move {
                let _ = serve(peer, refusal, when, &sender).await;
            }
        };
        let upstream = async |stack: &Stack| Scripted::new(stack, script).await;
        let proxied = ProxyStack::before(upstream, &["--cores", "1"]).await;
        Self { proxied, asked }
    }

    /// Waits until `count` requests have come.
    async fn asked(&self, count: usize) {
        let mut asked = self.asked.clone();
        let waiting = asked.wait_for(|asked| asked.len() >= count);
        let came = timeout(PATIENCE, waiting).await.map(|came| came.is_ok());
        assert_eq!(
            came,
            Ok(true),
            "not {count} requests: {:?}",
            self.connections()
        );
    }

    fn connections(&self) -> Vec<usize> {
        self.asked.borrow().clone()
    }
}

async fn serve(
    mut peer: ScriptedPeer,
    refusal: Refusal,
    when: When,
    asked: &Mutex<watch::Sender<Vec<usize>>>,
) -> Option<()> {
    loop {
        let request = peer.asked().await?;
        let mut is_first = false;
        asked.lock().unwrap().send_modify(|all| {
            is_first = all.is_empty();
            all.push(peer.number);
        });
        if is_first {
            while when == When::AfterData && peer.next().await?.kind != DATA {}
            peer.send(refusal(request.stream)).await;
        } else {
            answer(&mut peer, request).await?;
        }
    }
}

/// Opens the windows, reads a body and answers with its length.
async fn answer(peer: &mut ScriptedPeer, asked: Asked) -> Option<()> {
    for stream in [0, asked.stream] {
        let more = 1_u32 << 30;
        peer.send(frame(frames::WINDOW_UPDATE, 0, stream, &more.to_be_bytes()))
            .await;
    }
    let length = peer.body(asked).await?.len().to_string();
    let head = head(asked.stream, 0, &[(":status", "200")]);
    let data = frame(DATA, END_STREAM, asked.stream, length.as_bytes());
    peer.send([head, data].concat()).await.then_some(())
}

const LENGTH: usize = 1_000_000;

/// Sends the head of a POST, with its length or without. The test sends the body.
fn begun(
    https: &Https,
    version: Version,
    has_length: bool,
) -> (Sender<Bytes>, JoinHandle<(u16, Bytes)>) {
    let (sender, body) = Channel::new(1);
    let mut request = Request::post("/");
    if has_length {
        request = request.header("content-length", LENGTH);
    }
    let request = request.body(body).unwrap();
    let https = https.clone();
    let answer = tokio::spawn(async move {
        let answer = https.start(version, request).await;
        let status = answer.status().as_u16();
        (
            status,
            answer.into_body().collect().await.unwrap().to_bytes(),
        )
    });
    (sender, answer)
}

async fn answered(answer: JoinHandle<(u16, Bytes)>) -> (u16, Bytes) {
    timeout(PATIENCE, answer)
        .await
        .expect("answers in time")
        .unwrap()
}

#[tokio::test]
async fn post_that_is_given_back_before_its_body_came_is_sent_again() {
    for (name, refusal) in REFUSALS {
        for (version, has_length) in [
            (Version::HTTP_11, true),
            (Version::HTTP_11, false),
            (Version::HTTP_2, true),
            (Version::HTTP_2, false),
        ] {
            let what = format!("{name} {version:?} with a length: {has_length}");
            let refusing = Refusing::new(refusal, When::AtOnce).await;
            let (mut body, answer) = begun(&refusing.proxied.https, version, has_length);
            refusing.asked(2).await;
            body.send_data(vec![b'x'; LENGTH].into()).await.unwrap();
            drop(body);
            let expected = (200, Bytes::from(LENGTH.to_string()));
            assert_eq!(answered(answer).await, expected, "{what}");
            let connections = refusing.connections();
            assert_ne!(connections[0], connections[1], "{what}");
            assert_eq!(connections.len(), 2, "{what}");
        }
    }
}

async fn post(https: &Https, version: Version, length: usize) -> WholeAnswer {
    let body = Full::new(Bytes::from(vec![b'x'; length]));
    let request = Request::post("/").body(body).unwrap();
    timeout(PATIENCE, https.send_over(version, request))
        .await
        .expect("answers in time")
}

#[tokio::test]
async fn post_whose_small_body_is_in_hand_is_sent_again_when_it_is_given_back() {
    for (name, refusal) in REFUSALS {
        for (when, length) in [
            (When::AtOnce, 0),
            (When::AtOnce, 2),
            (When::AfterData, 2),
            (When::AtOnce, 8 * 1024),
            (When::AfterData, 8 * 1024),
        ] {
            for version in [Version::HTTP_11, Version::HTTP_2] {
                let what = format!("{name} {when:?} {length} {version:?}");
                let refusing = Refusing::new(refusal, when).await;
                let answer = post(&refusing.proxied.https, version, length).await;
                assert_eq!(answer.status, 200, "{what}");
                assert_eq!(answer.body, length.to_string(), "{what}");
                let connections = refusing.connections();
                assert_ne!(connections[0], connections[1], "{what}");
                assert_eq!(connections.len(), 2, "{what}");
            }
        }
    }
}

/// The proxy no longer has the part of the body that it has sent.
#[tokio::test]
async fn post_that_is_given_back_within_its_body_is_answered_with_502_and_not_sent_again() {
    for (name, refusal) in REFUSALS {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let refusing = Refusing::new(refusal, When::AfterData).await;
            let (mut body, answer) = begun(&refusing.proxied.https, version, true);
            body.send_data(vec![b'x'; 10].into()).await.unwrap();
            assert_eq!(answered(answer).await.0, 502, "{name} {version:?}");
            assert_eq!(refusing.connections().len(), 1, "{name} {version:?}");
        }
    }
}
