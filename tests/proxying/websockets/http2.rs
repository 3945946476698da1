use h2::{
    Reason, RecvStream, SendStream,
    client::{Builder, SendRequest},
    ext::Protocol,
};
use http::{Request, Response};
use hyper::body::Bytes;

use super::*;

/// Connects over HTTP/2, and waits for the setting that allows extended CONNECT (RFC 8441 §3).
async fn connect(sockets: &Sockets) -> SendRequest<Bytes> {
    let tls = sockets.stack.https.connect(b"h2").await;
    let (sender, connection) = Builder::new().handshake(tls).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    // SETTINGS have come when another request is answered.
    let other = Request::get("https://a/").body(()).unwrap();
    let (answer, _) = sender.send_request(other, true).unwrap();
    answer.await.unwrap();
    assert!(sender.is_extended_connect_protocol_enabled());
    sender
}

/// Sends CONNECT for a protocol.
async fn open(
    sender: &mut SendRequest<Bytes>,
    protocol: &'static str,
    query: &str,
) -> (Response<RecvStream>, SendStream<Bytes>) {
    let request = Request::connect(format!("https://a/ws?{query}"))
        .extension(Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat");
    let (answer, stream) = sender
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    let answer = timeout(PATIENCE, answer).await.expect("comes in time");
    (answer.unwrap(), stream)
}

/// Reads exactly these bytes.
async fn reads(body: &mut RecvStream, expected: &str) {
    let mut read = Vec::new();
    while read.len() < expected.len() {
        let data = timeout(PATIENCE, body.data()).await.expect("comes in time");
        read.extend(data.unwrap().unwrap());
    }
    assert_eq!(String::from_utf8_lossy(&read), expected);
}

#[tokio::test]
async fn websocket_over_http2_is_one_over_http1_upstream_h011() {
    let mut sockets = Sockets::new(&[]).await;
    let mut sender = connect(&sockets).await;
    sockets.next().await;
    let (answer, mut stream) = open(&mut sender, "websocket", "").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
    for name in [
        "sec-websocket-accept",
        "upgrade",
        "connection",
        "content-length",
    ] {
        assert!(!answer.headers().contains_key(name), "{name}");
    }
    let request = Message {
        head: sockets.next().await,
        body: Vec::new(),
    };
    assert_eq!(request.start_line(), "GET /ws? HTTP/1.1");
    assert_eq!(request.fields("upgrade"), ["websocket"]);
    assert_eq!(
        request.fields("sec-websocket-key").len(),
        1,
        "the proxy makes one"
    );
    assert_eq!(request.fields("x-forwarded-host"), ["a"]);
    let mut body = answer.into_body();
    reads(&mut body, "hello").await;
    for text in ["a", "b"] {
        stream.send_data(text.into(), false).unwrap();
        reads(&mut body, text).await;
    }
    stream.send_data("end".into(), false).unwrap();
    let end = timeout(PATIENCE, body.data()).await.expect("comes in time");
    assert!(end.is_none_or(|data| data.unwrap().is_empty()));
}

#[tokio::test]
async fn reset_of_a_websocket_over_http2_ends_it_upstream_h011() {
    let mut sockets = Sockets::new(&[]).await;
    let mut sender = connect(&sockets).await;
    sockets.next().await;
    let (answer, mut stream) = open(&mut sender, "websocket", "").await;
    sockets.next().await;
    let mut body = answer.into_body();
    reads(&mut body, "hello").await;
    stream.send_reset(Reason::CANCEL);
    assert_eq!(sockets.next().await, "");
    // Other streams of the same connection continue.
    let (answer, _stream) = open(&mut sender, "websocket", "").await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn other_protocols_and_refused_websockets_open_nothing_over_http2_h011() {
    let mut sockets = Sockets::new(&[]).await;
    let mut sender = connect(&sockets).await;
    sockets.next().await;
    for (protocol, query, status) in [
        ("connect-udp", "", 405),
        ("websocket", "refused", 403),
        ("websocket", "wrong", 502),
        ("websocket", "plain", 502),
    ] {
        let (answer, _stream) = open(&mut sender, protocol, query).await;
        assert_eq!(answer.status(), status, "{protocol} {query}");
    }
}
