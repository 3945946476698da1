use harness::{
    PATIENCE, Stack,
    frames::{
        self, DATA, END_HEADERS, END_STREAM, Frame, Frames, GOAWAY, HEADERS, RST_STREAM, frame,
        head,
    },
    https::{self, Https},
    process::Process,
    raw::{self, Client, Upstream},
    scripted::Scripted,
};
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use tokio::time::timeout;

use crate::request;

/// An answer without a body. Its head may have a length.
#[derive(Clone, Copy, Debug)]
struct Empty {
    method: &'static str,
    status: &'static str,
    length: Option<&'static str>,
    /// An empty DATA frame after the head ends the stream of HTTP/2.
    ends_by_data: bool,
}

impl Empty {
    /// Returns the length that crosses. With 304 and HEAD it is the length of another answer
    /// (RFC 9110 §8.6, §15.4.5). A 204 has no length.
    fn crossing(self) -> Option<&'static str> {
        self.length.filter(|_| self.status != "204")
    }

    fn fields(self) -> Vec<(&'static str, &'static str)> {
        let length = self.length.map(|length| ("content-length", length));
        length.into_iter().collect()
    }
}

fn all() -> Vec<Empty> {
    let mut all = Vec::new();
    for (method, status) in [
        ("GET", "304"),
        ("HEAD", "304"),
        ("GET", "204"),
        ("POST", "204"),
        ("HEAD", "200"),
        ("HEAD", "404"),
    ] {
        for length in [None, Some("0"), Some("100")] {
            for ends_by_data in [false, true] {
                all.push(Empty {
                    method,
                    status,
                    length,
                    ends_by_data,
                });
            }
        }
    }
    all
}

/// Holds a proxy and its upstream.
struct Proxied {
    _stack: Stack,
    _proxy: Process,
    https: Https,
    _kept: (Option<Scripted>, Option<Upstream>),
}

/// Starts a proxy and an upstream that speaks `version` and answers all requests with `empty`.
async fn proxied(version: Version, empty: Empty) -> Proxied {
    let stack = Stack::new().await;
    let (port, kept) = match version {
        Version::HTTP_2 => {
            let upstream = over_http2(&stack, empty).await;
            (upstream.port, (Some(upstream), None))
        }
        _ => {
            let upstream = over_http1(&stack, empty).await;
            (upstream.port, (None, Some(upstream)))
        }
    };
    let proxy = stack.proxy(port, &["--cores", "1"]).await;
    let https = stack.https(proxy.listening().await);
    Proxied {
        _stack: stack,
        _proxy: proxy,
        https,
        _kept: kept,
    }
}

async fn over_http1(stack: &Stack, empty: Empty) -> Upstream {
    Upstream::new(stack, move |_| {
        let fields = empty.fields();
        let lines = fields
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"));
        let lines: String = lines.collect();
        raw::Reply::Bytes(format!("HTTP/1.1 {} A\r\n{lines}\r\n", empty.status).into())
    })
    .await
}

async fn over_http2(stack: &Stack, empty: Empty) -> Scripted {
    Scripted::new(stack, move |mut peer| async move {
        while let Some(asked) = peer.asked().await {
            let fields = [&[(":status", empty.status)], &empty.fields()[..]].concat();
            let answer = if empty.ends_by_data {
                [
                    head(asked.stream, 0, &fields),
                    frame(DATA, END_STREAM, asked.stream, b""),
                ]
                .concat()
            } else {
                head(asked.stream, END_STREAM, &fields)
            };
            peer.send(answer).await;
        }
    })
    .await
}

/// Sends two requests on one connection, because the second answer shows where the first one ended.
async fn check_http1(proxied: &Proxied, what: &str, empty: Empty) {
    let line = format!("{} / HTTP/1.1", empty.method);
    let bytes = request(&[&line, "Host: a", "Content-Length: 0"], "");
    let mut client = Client::new(&proxied.https).await;
    for _ in 0..2 {
        client.send(&bytes).await;
        let answer = client.answer_to(empty.method).await;
        let answer = answer.unwrap_or_else(|| panic!("{what} closes"));
        assert_eq!(answer.status().to_string(), empty.status, "{what}");
        let lengths = answer.fields("content-length");
        check_length(&lengths, what, empty);
        assert!(answer.fields("transfer-encoding").is_empty(), "{what}");
    }
}

/// Fails if there is a length other than the one that crosses. Only some answers must have it.
fn check_length(lengths: &[&str], what: &str, empty: Empty) {
    match lengths {
        [] => {}
        [length] => assert_eq!(Some(*length), empty.crossing(), "{what}"),
        _ => panic!("{what} {lengths:?}"),
    }
    if empty.method == "HEAD" && empty.status != "304" {
        assert_eq!(lengths.first().copied(), empty.crossing(), "{what}");
    }
}

async fn check_http2(proxied: &Proxied, what: &str, empty: Empty) {
    check_frames(proxied, what, empty).await;
    let request = Request::builder().method(empty.method).uri("/");
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let answer = proxied.https.start(Version::HTTP_2, request).await;
    assert_eq!(answer.status().as_str(), empty.status, "{what}");
    let lengths = answer.headers().get_all("content-length");
    let lengths: Vec<_> = lengths
        .iter()
        .map(|length| length.to_str().unwrap())
        .collect();
    check_length(&lengths, what, empty);
    let body = answer.into_body().collect().await;
    assert_eq!(body.expect(what).to_bytes(), "", "{what}");
}

/// Sends two requests on one connection and fails if a stream is reset or does not end.
async fn check_frames(proxied: &Proxied, what: &str, empty: Empty) {
    let block = match empty.method {
        "GET" => frames::GET,
        "POST" => frames::POST,
        // This block has a literal `:method` instead of the indexed one.
        _ => b"\x02\x04HEAD\x87\x84\x01\x09localhost",
    };
    let mut frames = Frames::connect(&proxied.https, b"").await;
    for stream in [1, 3] {
        frames.send(&frames::request(stream, block, &[])).await;
        let mut next = frames.until(HEADERS, stream).await;
        assert_ne!(next.flags & END_HEADERS, 0, "{what}");
        while next.flags & END_STREAM == 0 {
            next = calm(&mut frames, what).await;
            assert!(next.kind != DATA || next.payload.is_empty(), "{what}");
        }
    }
    // The proxy sends resets that are due before it acknowledges a PING.
    frames.send(&frame(frames::PING, 0, 0, &[7; 8])).await;
    while calm(&mut frames, what).await.payload != [7; 8] {}
}

/// Reads the next frame and fails if it is RST_STREAM or GOAWAY.
async fn calm(frames: &mut Frames, what: &str) -> Frame {
    let next = timeout(PATIENCE, frames.next())
        .await
        .expect("comes in time");
    let next = next.unwrap_or_else(|| panic!("{what} closes"));
    assert!(
        ![RST_STREAM, GOAWAY].contains(&next.kind),
        "{what} {next:?}"
    );
    next
}

async fn check_all(version: Version) {
    for empty in all() {
        // HTTP/1.1 has only one form of these answers.
        if version != Version::HTTP_2 && empty.ends_by_data {
            continue;
        }
        let what = format!("upstream {version:?} {empty:?}");
        let proxied = proxied(version, empty).await;
        check_http1(&proxied, &what, empty).await;
        check_http2(&proxied, &what, empty).await;
    }
}

#[tokio::test]
async fn answers_without_a_body_cross_from_http1_with_the_length_that_they_may_have() {
    check_all(Version::HTTP_11).await;
}

#[tokio::test]
async fn answers_without_a_body_cross_from_http2_with_the_length_that_they_may_have() {
    check_all(Version::HTTP_2).await;
}

#[tokio::test]
async fn client_takes_an_answer_without_a_body_for_complete() {
    let stack = Stack::new().await;
    let mut wrong = Vec::new();
    for (status, code) in [("204", 0), ("304", 1)] {
        for ends_by_data in [false, true] {
            let empty = Empty {
                method: "GET",
                status,
                length: Some("100"),
                ends_by_data,
            };
            let upstream = over_http2(&stack, empty).await;
            let output = stack.client(upstream.port, &["-i"]).await;
            let errors = String::from_utf8(output.stderr).unwrap();
            if output.status.code() != Some(code) || errors.contains("broke off") {
                wrong.push(format!("{empty:?} {errors}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join(""));
}

/// A GET that is answered with 200 has a body, so that its length matters.
#[tokio::test]
async fn get_with_a_length_and_an_empty_end_is_a_break() {
    let empty = Empty {
        method: "GET",
        status: "200",
        length: Some("100"),
        ends_by_data: true,
    };
    let proxied = proxied(Version::HTTP_2, empty).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        // The proxy may learn of such a break before it has forwarded the head.
        if let Ok(answer) = proxied.https.try_start(version, https::get(&[])).await
            && answer.status() != 502
        {
            assert_eq!(answer.status(), 200, "{version:?}");
            answer.into_body().collect().await.expect_err("is complete");
        }
    }
}
