use std::{sync::Arc, time::Duration};

use harness::{https, proxy_stack::ProxyStack};
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Channel};
use hyper::body::{Bytes, Incoming};
use serve::body::Body;
use tokio::sync::Notify;

/// The versions of the caller, and the protocols of the upstream.
const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];
const PROTOCOLS: [&str; 2] = ["http/1.1", "h2"];

/// Begins answers with one event, and sends another one and their end whenever it is told to.
async fn events(protocol: &str, args: &[&str], next: &Arc<Notify>) -> ProxyStack<u16> {
    let next = Arc::clone(next);
    ProxyStack::answering(&[protocol], args, move |request: Request<Incoming>| {
        let next = Arc::clone(&next);
        async move {
            if request.uri().query() == Some("poll") {
                next.notified().await;
            }
            let (mut sender, body) = Channel::<Bytes>::new(1);
            tokio::spawn(async move {
                // A caller may leave at any time.
                let _ = sender.send_data("data: 1\n\n".into()).await;
                next.notified().await;
                let _ = sender.send_data("data: 2\n\n".into()).await;
            });
            let response = Response::builder().header("content-type", "text/event-stream");
            response.body(Body::streamed(body)).unwrap()
        }
    })
    .await
}

/// Returns the next event, or `None` at the end, which over HTTP/2 may be an empty frame.
async fn next_event(body: &mut Incoming) -> Option<Bytes> {
    let frame = tokio::time::timeout(harness::PATIENCE, body.frame());
    let frame = frame.await.expect("comes in time")?.unwrap();
    frame.into_data().ok().filter(|data| !data.is_empty())
}

#[tokio::test]
async fn events_cross_as_they_come_however_long_the_silence_h008() {
    let next = Arc::<Notify>::default();
    for protocol in PROTOCOLS {
        let stack = events(protocol, &["--body-timeout", "200ms"], &next).await;
        for version in VERSIONS {
            let answer = stack.https.start(version, https::get(&[])).await;
            let mut body = answer.into_body();
            assert_eq!(next_event(&mut body).await.unwrap(), "data: 1\n\n");
            tokio::time::sleep(Duration::from_millis(700)).await;
            next.notify_one();
            assert_eq!(next_event(&mut body).await.unwrap(), "data: 2\n\n");
            assert_eq!(next_event(&mut body).await, None, "{version:?} {protocol}");
        }
    }
}

#[tokio::test]
async fn long_poll_has_the_response_timeout_h008() {
    let next = Arc::<Notify>::default();
    let times = ["--body-timeout", "200ms", "--response-timeout", "20s"];
    let stack = events("http/1.1", &times, &next).await;
    let poll = Request::get("/?poll").body(http_body_util::Empty::<Bytes>::new());
    let polling = stack.https.start(Version::HTTP_11, poll.unwrap());
    let telling = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        next.notify_one();
    };
    let (answer, ()) = tokio::join!(polling, telling);
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn stream_that_is_silent_for_too_long_is_broken_off_h009() {
    let next = Arc::<Notify>::default();
    for protocol in PROTOCOLS {
        let stack = events(protocol, &["--stream-idle-timeout", "300ms"], &next).await;
        for version in VERSIONS {
            let answer = stack.https.start(version, https::get(&[])).await;
            let mut body = answer.into_body();
            assert_eq!(next_event(&mut body).await.unwrap(), "data: 1\n\n");
            let end = tokio::time::timeout(harness::PATIENCE, body.frame()).await;
            let broken = end.expect("ends in time").unwrap();
            assert!(broken.is_err(), "{version:?} {protocol}: {broken:?}");
        }
    }
}
