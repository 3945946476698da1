use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use harness::{
    PATIENCE, Stack,
    frames::{DATA, END_STREAM, ENHANCE_YOUR_CALM, NO_ERROR, frame, goaway, head},
    https::{Https, get},
    scripted::{Scripted, ScriptedPeer},
};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::{body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{task::JoinSet, time::timeout};

/// The number of POSTs that are on one connection to the upstream when it sends GOAWAY.
const COUNT: usize = 20;

/// The number of them that the upstream processes.
const PROCESSED: usize = 7;

/// The reaction of the upstream when all POSTs have come over its first connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    /// Sends GOAWAY with the last one that it processes, answers these and closes.
    Answers(u32),
    /// Sends a GOAWAY that names no last one first, and then does the same as [`Self::Answers`].
    InTwoSteps,
    /// Sends GOAWAY with the last one that it processes, and closes.
    Closes,
}

/// The bodies that the upstream has answered, and how often.
type Answered = Arc<Mutex<BTreeMap<Bytes, usize>>>;

async fn serve(mut peer: ScriptedPeer, leaving: Leaving, answered: Answered) -> Option<()> {
    let mut came = Vec::new();
    loop {
        let next = peer.next().await?;
        if next.kind != DATA || next.flags & END_STREAM == 0 {
            continue;
        }
        came.push((next.stream, Bytes::from(next.payload)));
        if peer.number > 0 {
            let (stream, body) = came.pop()?;
            answer(&mut peer, stream, body, &answered).await;
        } else if came.len() == COUNT {
            break;
        }
    }
    came.sort();
    let (last, _) = came[PROCESSED - 1];
    let code = match leaving {
        Leaving::Answers(code) => code,
        Leaving::InTwoSteps | Leaving::Closes => NO_ERROR,
    };
    if leaving == Leaving::InTwoSteps {
        peer.send(goaway(i32::MAX.cast_unsigned(), NO_ERROR)).await;
    }
    peer.send(goaway(last, code)).await;
    if leaving != Leaving::Closes {
        for (stream, body) in came.into_iter().take(PROCESSED) {
            answer(&mut peer, stream, body, &answered).await;
        }
    }
    peer.close().await;
    Some(())
}

async fn answer(peer: &mut ScriptedPeer, stream: u32, body: Bytes, answered: &Answered) {
    *answered.lock().unwrap().entry(body).or_default() += 1;
    let head = head(stream, 0, &[(":status", "200")]);
    let data = frame(DATA, END_STREAM, stream, b"answer");
    peer.send([head, data].concat()).await;
}

/// Sends all POSTs at once, each with a body of its own. Returns how often each status came.
async fn posts(https: &Https) -> BTreeMap<u16, usize> {
    let io = TokioIo::new(https.connect(b"h2").await);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let mut answers = JoinSet::new();
    for number in 0..COUNT {
        let mut sender = sender.clone();
        let body = Full::<Bytes>::from(format!("body {number}"));
        let post = Request::post("https://localhost/").body(body).unwrap();
        answers.spawn(async move {
            let answer = sender.send_request(post).await.unwrap();
            let status = answer.status().as_u16();
            answer.into_body().collect().await.unwrap();
            status
        });
    }
    let answers = timeout(PATIENCE, answers.join_all()).await;
    let mut statuses = BTreeMap::new();
    for status in answers.expect("all are answered in time") {
        *statuses.entry(status).or_default() += 1;
    }
    statuses
}

#[tokio::test]
async fn posts_above_the_last_stream_of_goaway_are_sent_again_and_those_below_only_once() {
    for leaving in [
        Leaving::Answers(NO_ERROR),
        Leaving::Answers(ENHANCE_YOUR_CALM),
        Leaving::InTwoSteps,
        Leaving::Closes,
    ] {
        let stack = Stack::new().await;
        let answered = Answered::default();
        let upstream = Scripted::new(&stack, {
            let answered = Arc::clone(&answered);
            move |peer| {
                let answered = Arc::clone(&answered);
                async move {
                    let _ = serve(peer, leaving, answered).await;
                }
            }
        })
        .await;
        let proxy = stack.proxy(upstream.port, &["--cores", "1"]).await;
        let https = stack.https(proxy.listening().await);
        let statuses = posts(&https).await;
        let lost = match leaving {
            Leaving::Closes => PROCESSED,
            _ => 0,
        };
        let mut expected = BTreeMap::from([(200, COUNT - lost), (502, lost)]);
        expected.retain(|_, count| *count > 0);
        assert_eq!(statuses, expected, "{leaving:?}: {:?}", proxy.log().last());
        let answered = answered.lock().unwrap();
        assert_eq!(answered.len(), COUNT - lost, "{leaving:?}");
        assert!(
            answered.values().all(|times| *times == 1),
            "{leaving:?}: {answered:?}"
        );
    }
}

#[tokio::test]
async fn upstream_that_drains_a_connection_before_its_first_request_is_connected_to_again() {
    let stack = Stack::new().await;
    // A process that stops accepts what waits for it, and drains it at once.
    let upstream = Scripted::new(&stack, |mut peer: ScriptedPeer| async move {
        if peer.number.is_multiple_of(2) {
            peer.send(goaway(0, NO_ERROR)).await;
            peer.close().await;
            return;
        }
        while let Some(asked) = peer.asked().await {
            let head = head(asked.stream, END_STREAM, &[(":status", "204")]);
            peer.send(head).await;
        }
    })
    .await;
    let output = stack.client(upstream.port, &["-i"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("204"), "{text}");
    let proxy = stack.proxy(upstream.port, &["--cores", "1"]).await;
    let https = stack.https(proxy.listening().await);
    assert_eq!(https.send(get(&[])).await.status, 204);
    assert_eq!(upstream.connections(), 4);
}
