use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use harness::{
    PATIENCE, Stack,
    frames::{DATA, END_STREAM, RST_STREAM, frame, head},
    https::Https,
    scripted::{Scripted, ScriptedPeer},
};
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use crate::FRESH;

/// Longer than a body that shares a connection.
const LONG: usize = 20 * 1024;

/// The requests that came over a connection of the upstream, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    Upload(usize),
    Reset(usize),
}

/// Answers each upload. The first answer has no end.
async fn serve(
    mut peer: ScriptedPeer,
    came: Arc<Mutex<mpsc::UnboundedSender<Came>>>,
    answered: Arc<AtomicUsize>,
) {
    while let Some(next) = peer.next().await {
        let sender = came.lock().unwrap().clone();
        if next.kind == RST_STREAM {
            sender.send(Came::Reset(peer.number)).unwrap();
        } else if next.kind == DATA && next.flags & END_STREAM != 0 {
            sender.send(Came::Upload(peer.number)).unwrap();
            let flags = match answered.fetch_add(1, SeqCst) {
                0 => 0,
                _ => END_STREAM,
            };
            let head = head(next.stream, 0, &[(":status", "200")]);
            let data = frame(DATA, flags, next.stream, b"answer");
            peer.send([head, data].concat()).await;
        }
    }
}

async fn upload(https: &Https) -> Response<Incoming> {
    let body = Full::<Bytes>::from(vec![b'a'; LONG]);
    let request = Request::post("/").body(body).unwrap();
    let answer = https.start(Version::HTTP_2, request);
    let answer = timeout(PATIENCE, answer).await.expect("answers in time");
    assert_eq!(answer.status(), 200);
    answer
}

async fn next(comes: &mut mpsc::UnboundedReceiver<Came>) -> Came {
    let next = timeout(PATIENCE, comes.recv()).await;
    next.expect("comes in time").unwrap()
}

/// A peer ends a connection for many resets, and by chance while another caller's upload has it.
#[tokio::test]
async fn connection_of_an_upload_whose_answer_was_broken_off_takes_no_other_upload() {
    let stack = Stack::new().await;
    let (came, mut comes) = mpsc::unbounded_channel();
    let (came, answered) = (Arc::new(Mutex::new(came)), Arc::<AtomicUsize>::default());
    let upstream = Scripted::new(&stack, move |peer| {
        serve(peer, Arc::clone(&came), Arc::clone(&answered))
    })
    .await;
    let proxy = stack.proxy(upstream.port, &["--cores", "1"]).await;
    let https = stack.https(proxy.listening().await);
    drop(upload(&https).await);
    let Came::Upload(first) = next(&mut comes).await else {
        panic!("the upload comes first");
    };
    assert_eq!(next(&mut comes).await, Came::Reset(first));
    let others = loop {
        let (begun, mut others) = (Instant::now(), Vec::new());
        for _ in 0..3 {
            let answer = upload(&https).await.into_body().collect().await;
            assert_eq!(answer.unwrap().to_bytes(), "answer");
            others.push(next(&mut comes).await);
        }
        assert!(!others.contains(&Came::Upload(first)), "{others:?}");
        // A connection that was idle for longer takes no upload.
        if begun.elapsed() < FRESH {
            break others;
        }
    };
    let is_kept = others.iter().all(|one| *one == others[0]);
    assert!(is_kept, "it is used again after a whole answer: {others:?}");
}
