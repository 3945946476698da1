use std::time::Duration;

use harness::{
    frames::{
        self, CANCEL, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frames, HEADERS,
        INTERNAL_ERROR, RST_STREAM, frame,
    },
    https,
    proxy_stack::ProxyStack,
    scripted::{Scripted, ScriptedPeer},
};
use http::{Request, Response, StatusCode, Version, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Channel, Full};
use hyper::body::{Bytes, Incoming};
use serve::body;

const CALL: [(&str, &str); 6] = [
    (":method", "POST"),
    (":scheme", "https"),
    (":authority", "localhost"),
    (":path", "/"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
];

/// Answers with the version that the request came over, before its body.
async fn tell_version(request: Request<Incoming>) -> Response<body::Body> {
    body::text(StatusCode::OK, format!("{:?}", request.version()))
}

/// Returns a POST whose body does not end, and the sender of the body.
fn endless(fields: &[(&'static str, &'static str)]) -> (Request<Channel<Bytes>>, impl Sized) {
    let (sender, body) = Channel::<Bytes>::new(1);
    let mut request = Request::post("/").body(body).unwrap();
    for (name, value) in fields {
        let value = http::HeaderValue::from_static(value);
        request.headers_mut().append(*name, value);
    }
    (request, sender)
}

/// Returns a gRPC call with this body.
fn call<B>(uri: &str, body: B) -> Request<B> {
    let call = Request::post(uri).header(CONTENT_TYPE, "application/grpc");
    call.body(body).unwrap()
}

#[tokio::test]
async fn call_goes_over_http2_and_its_head_before_its_body_h003() {
    let stack = ProxyStack::answering(&["h2", "http/1.1"], &[], tell_version).await;
    // The first request tells the proxy what the upstream speaks.
    stack.https.send(https::get(&[])).await;
    for (fields, version) in [
        (
            &[("content-type", "application/grpc+proto")][..],
            "HTTP/2.0",
        ),
        (&[("te", "trailers")], "HTTP/2.0"),
        (&[("content-type", "application/grpc-web")], "HTTP/1.1"),
        (&[], "HTTP/1.1"),
    ] {
        let (request, _sender) = endless(fields);
        let answer = stack.https.start(Version::HTTP_2, request).await;
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, version, "{fields:?}");
    }
}

#[tokio::test]
async fn call_to_an_upstream_without_http2_fails_and_delays_no_other_request_h005() {
    let stack = ProxyStack::answering(&["http/1.1"], &["--cores", "1"], tell_version).await;
    for body in ["", "a message"] {
        let call = call("/", Full::<Bytes>::from(body));
        let answer = stack.https.send_over(Version::HTTP_2, call).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["grpc-status"], "14");
        assert_eq!(answer.headers["grpc-message"], "Bad Gateway");
        // The upstream is not ejected, and trailers alone do not need HTTP/2.
        let plain = https::get(&[("te", "trailers")]);
        let answer = stack.https.send_over(Version::HTTP_2, plain).await;
        assert_eq!(
            (answer.status, &answer.body[..]),
            (StatusCode::OK, &b"HTTP/1.1"[..])
        );
    }
    stack
        .proxy
        .logged("it does not speak HTTP/2, which gRPC needs")
        .await;
}

#[tokio::test]
async fn call_may_be_silent_for_longer_than_other_requests_h006() {
    let times = [
        "--body-timeout",
        "200ms",
        "--response-timeout",
        "200ms",
        "--stream-idle-timeout",
        "3s",
    ];
    let stack = ProxyStack::answering(&["h2"], &times, async |request: Request<Incoming>| {
        match request.uri().query() {
            Some("never") => std::future::pending().await,
            _ => tokio::time::sleep(Duration::from_millis(700)).await,
        }
        let body = request.into_body().collect().await;
        body::text(StatusCode::OK, body.unwrap().to_bytes())
    })
    .await;
    // The server begins its answer late, and the caller its body.
    let (mut sender, body) = Channel::<Bytes>::new(1);
    let sending = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        sender.send_data("late".into()).await.unwrap();
        drop(sender);
    };
    let answering = stack.https.send_over(Version::HTTP_2, call("/", body));
    let (answer, ()) = tokio::join!(answering, sending);
    assert_eq!(answer.body, "late");

    // A call that is silent for too long ends, whichever side is.
    let silent = Full::<Bytes>::from("abc");
    let unanswered = stack
        .https
        .send_over(Version::HTTP_2, call("/?never", silent));
    let (_sender, body) = Channel::<Bytes>::new(1);
    let unsent = stack.https.send_over(Version::HTTP_2, call("/", body));
    let (unanswered, unsent) = tokio::join!(unanswered, unsent);
    assert_eq!(unanswered.headers["grpc-status"], "4", "{unanswered:?}");
    assert_eq!(unsent.headers["grpc-status"], "2", "{unsent:?}");
    assert_eq!(unsent.headers["grpc-message"], "Request Timeout");

    // Another body has the shorter time.
    let (_sender, body) = Channel::<Bytes>::new(1);
    let request = Request::post("/").body(body).unwrap();
    let answer = stack.https.send_over(Version::HTTP_2, request).await;
    assert_eq!(answer.status, 408);
}

#[tokio::test]
async fn reset_of_the_upstream_reaches_the_caller_as_what_it_is_h004() {
    for (sent, received) in [
        (CANCEL, CANCEL),
        (INTERNAL_ERROR, INTERNAL_ERROR),
        (ENHANCE_YOUR_CALM, INTERNAL_ERROR),
    ] {
        let upstream = async |stack: &harness::Stack| {
            Scripted::new(stack, move |mut peer: ScriptedPeer| async move {
                while let Some(asked) = peer.asked().await {
                    let status_200 = frame(HEADERS, END_HEADERS, asked.stream, &[0x88]);
                    let data = frame(DATA, 0, asked.stream, b"begun");
                    let reset = frames::reset(asked.stream, sent);
                    peer.send([status_200, data, reset].concat()).await;
                }
            })
            .await
        };
        let stack = ProxyStack::before(upstream, &[]).await;
        let mut caller = Frames::connect(&stack.https, b"").await;
        caller.send(&frames::request(1, b"", &CALL)).await;
        let reset = caller.until(RST_STREAM, 1).await;
        assert_eq!(reset.payload, received.to_be_bytes(), "{sent}");
    }
}

#[tokio::test]
async fn cancel_of_the_upstream_before_its_answer_is_a_grpc_status_h004() {
    for (sent, timeout, status, message) in [
        // The caller's own timer may fire after the upstream's.
        (CANCEL, Some("1n"), "4", "Deadline Exceeded"),
        (CANCEL, Some("1H"), "1", "Cancelled"),
        (CANCEL, None, "1", "Cancelled"),
        (INTERNAL_ERROR, Some("1n"), "14", "Bad Gateway"),
    ] {
        let upstream = async |stack: &harness::Stack| {
            Scripted::new(stack, move |mut peer: ScriptedPeer| async move {
                while let Some(asked) = peer.asked().await {
                    peer.send(frames::reset(asked.stream, sent)).await;
                }
            })
            .await
        };
        let stack = ProxyStack::before(upstream, &[]).await;
        let mut call = call("/", Full::<Bytes>::from("abc"));
        if let Some(timeout) = timeout {
            let timeout = http::HeaderValue::from_static(timeout);
            call.headers_mut().insert("grpc-timeout", timeout);
        }
        let answer = stack.https.send_over(Version::HTTP_2, call).await;
        assert_eq!(answer.headers["grpc-status"], status, "{timeout:?}");
        assert_eq!(answer.headers["grpc-message"], message, "{timeout:?}");

        let other = Request::post("/").body(Full::<Bytes>::from("abc")).unwrap();
        let answer = stack.https.send_over(Version::HTTP_2, other).await;
        assert_eq!(answer.status, 502);
    }
}

#[tokio::test]
async fn cancel_of_the_caller_reaches_the_upstream_h004() {
    let (seen, mut codes) = tokio::sync::mpsc::unbounded_channel();
    let upstream = async |stack: &harness::Stack| {
        Scripted::new(stack, move |mut peer: ScriptedPeer| {
            let seen = seen.clone();
            async move {
                while let Some(next) = peer.next().await {
                    match next.kind {
                        // The answer to every second call has begun.
                        HEADERS if next.flags & END_STREAM == 0 => {
                            let status_200 = frame(HEADERS, END_HEADERS, next.stream, &[0x88]);
                            peer.send(status_200).await;
                        }
                        HEADERS => {}
                        RST_STREAM => drop(seen.send(next.payload)),
                        _ => {}
                    }
                }
            }
        })
        .await
    };
    let stack = ProxyStack::before(upstream, &["--cores", "1"]).await;
    for has_ended in [false, true] {
        let mut caller = Frames::connect(&stack.https, b"").await;
        let mut call = frames::request(1, b"", &CALL);
        call[4] = END_HEADERS | if has_ended { END_STREAM } else { 0 };
        caller.send(&call).await;
        if !has_ended {
            caller.until(HEADERS, 1).await;
        }
        caller.send(&frames::reset(1, CANCEL)).await;
        let code = tokio::time::timeout(harness::PATIENCE, codes.recv()).await;
        assert_eq!(
            code.expect("crosses soon").unwrap(),
            CANCEL.to_be_bytes(),
            "{has_ended}"
        );
    }
}
