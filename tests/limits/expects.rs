use crate::{next_frame, server};
use harness::{
    Stack,
    frames::{
        DATA, END_HEADERS, END_STREAM, Frame, Frames, HEADERS, POST, RST_STREAM, frame, request,
    },
    https::Https,
    raw::Client,
    upstream,
};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serve::body;

/// Begins a POST that waits for `100 (Continue)`, with more fields.
async fn waits(https: &Https, fields: &[(&str, &str)]) -> Frames {
    let mut http2 = Frames::connect(https, &[]).await;
    let fields = [&[("expect", "100-continue")], fields].concat();
    let mut head = request(1, POST, &fields);
    // The frame has no END_STREAM, because the body is to come.
    head[4] = END_HEADERS;
    http2.send(&head).await;
    http2
}

/// Returns the next frame of the answer on stream 1.
async fn next(http2: &mut Frames) -> Frame {
    loop {
        let frame = next_frame(http2).await;
        if frame.stream == 1 && [HEADERS, DATA, RST_STREAM].contains(&frame.kind) {
            return frame;
        }
    }
}

/// Returns whether a frame has `:status 100`, plain or in Huffman code (RFC 7541 §5.2).
fn is_continue(frame: &Frame) -> bool {
    const PLAIN: &[u8] = b"\x03100";
    const CODED: &[u8] = b"\x82\x08\x01";
    let has = |text: &[u8]| frame.payload.windows(text.len()).any(|part| part == text);
    frame.kind == HEADERS && frame.flags & END_STREAM == 0 && (has(PLAIN) || has(CODED))
}

/// Reads an answer to its end and returns its body. It must not begin with `100 (Continue)`.
async fn answer(http2: &mut Frames) -> Vec<u8> {
    let head = next(http2).await;
    assert!(head.kind == HEADERS && !is_continue(&head), "{head:?}");
    let (mut body, mut flags) = (Vec::new(), head.flags);
    while flags & END_STREAM == 0 {
        let frame = next(http2).await;
        assert_eq!(frame.kind, DATA, "{frame:?}");
        body.extend(&frame.payload);
        flags = frame.flags;
    }
    body
}

/// Starts a proxy in front of an upstream that answers with the length of the body.
async fn counting(stack: &Stack, alpn: &str, args: &[&str]) -> (harness::process::Process, Https) {
    let upstream = upstream::answering(stack, &[alpn], async |request: Request<_>| {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        body::text(StatusCode::OK, format!("{} bytes", body.len()))
    })
    .await;
    let proxy = stack.proxy(upstream, args).await;
    let https = stack.https(proxy.listening().await);
    (proxy, https)
}

#[tokio::test]
async fn an_http2_caller_that_waits_gets_100_then_sends_its_body_and_is_answered() {
    let stack = Stack::new().await;
    for alpn in ["h2", "http/1.1"] {
        let (_proxy, https) = counting(&stack, alpn, &[]).await;
        for fields in [&[][..], &[("content-length", "5")]] {
            let mut http2 = waits(&https, fields).await;
            let head = next(&mut http2).await;
            assert!(is_continue(&head), "{alpn} {fields:?}: {head:?}");
            http2.send(&frame(DATA, END_STREAM, 1, b"hello")).await;
            assert_eq!(answer(&mut http2).await, b"5 bytes", "{alpn} {fields:?}");
        }
    }
}

#[tokio::test]
async fn an_http2_caller_that_does_not_wait_is_answered() {
    let stack = Stack::new().await;
    for alpn in ["h2", "http/1.1"] {
        let (_proxy, https) = counting(&stack, alpn, &[]).await;
        let mut http2 = waits(&https, &[]).await;
        http2.send(&frame(DATA, END_STREAM, 1, b"hello")).await;
        loop {
            let frame = next(&mut http2).await;
            match frame.kind {
                HEADERS => {}
                DATA => break assert_eq!(frame.payload, b"5 bytes"),
                _ => panic!("{frame:?}"),
            }
        }
    }
}

#[tokio::test]
async fn an_http2_caller_that_the_server_refuses_gets_no_100() {
    let (stack, _server, https) = server(&["--max-body", "1000"]).await;
    let bad = format!("{}x", stack.token(|_| ()));
    for (fields, body) in [
        (&[][..], "401 Unauthorized\n"),
        (
            &[("authorization", &*format!("Bearer {bad}"))],
            "401 Unauthorized\n",
        ),
        (&[("authorization", "Basic abc")], "401 Unauthorized\n"),
        (&[("content-length", "1001")], "413 Payload Too Large\n"),
    ] {
        let mut http2 = waits(&https, fields).await;
        let answered = answer(&mut http2).await;
        assert_eq!(String::from_utf8_lossy(&answered), body, "{fields:?}");
    }
    // A served request whose body is not read gets no 100 either.
    let token = stack.bearer();
    let mut http2 = waits(&https, &[("authorization", &token)]).await;
    assert_eq!(answer(&mut http2).await, b"Success!!!");
}

#[tokio::test]
async fn an_http2_caller_that_the_proxy_refuses_gets_no_100() {
    let stack = Stack::new().await;
    let args = ["--max-body", "1000", "--path", "/elsewhere"];
    let (_proxy, https) = counting(&stack, "h2", &args).await;
    for (fields, body) in [
        (&[][..], "404 Not Found\n"),
        (&[("content-length", "1001")], "413 Payload Too Large\n"),
    ] {
        let mut http2 = waits(&https, fields).await;
        let answered = answer(&mut http2).await;
        assert_eq!(String::from_utf8_lossy(&answered), body, "{fields:?}");
    }
}

/// A request without a body has nothing to wait for, so that its connection is kept.
#[tokio::test]
async fn http1_connection_is_kept_after_an_expectation_without_a_body() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let proxy = stack.proxy(server.listening().await, &[]).await;
    for process in [&server, &proxy] {
        let https = stack.https(process.listening().await);
        let mut client = Client::new(&https).await;
        for fields in ["Content-Length: 0\r\n", "", "Content-Length: 0\r\n"] {
            for method in ["POST", "GET"] {
                let head = format!("{method} / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n");
                client.send([&head, fields, "\r\n"].concat()).await;
                let answer = client.answer().await.expect("the connection is kept");
                assert_eq!(answer.status(), 401, "{method} {fields}");
                assert!(answer.fields("connection").is_empty(), "{answer:?}");
            }
        }
    }
}
