//! Opens WebSockets byte for byte, over HTTP/1.1 and over HTTP/2. What goes through one is any bytes.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use harness::{
    PATIENCE, Stack,
    listen::listen,
    process::Process,
    proxy_stack::ProxyStack,
    raw::{Client, End, Message},
};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;

use crate::get;

/// Opens WebSockets over HTTP/2.
mod http2;

type Tls = TlsStream<TcpStream>;

/// An upstream with WebSockets, which echoes what comes. The query of the request changes that.
struct Sockets {
    stack: ProxyStack<u16>,
    /// The upstream sends the head of each request here, and then the bytes after each upgrade.
    came: mpsc::UnboundedReceiver<String>,
}

impl Sockets {
    async fn new(args: &[&str]) -> Self {
        let (sender, came) = mpsc::unbounded_channel();
        let sender = Arc::new(sender);
        let upstream = async |stack: &Stack| {
            listen(stack, &["http/1.1"], move |tls| {
                serve(tls, Arc::clone(&sender))
            })
            .await
        };
        let args = [&["--cores", "1", "--path", "/", "--path", "/ws"], args].concat();
        let stack = ProxyStack::before(upstream, &args).await;
        Self { stack, came }
    }

    /// Opens a WebSocket over HTTP/1.1.
    async fn open(&self, query: &str) -> Client {
        let mut client = Client::sending(&self.stack.https, upgrade(query)).await;
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status(), 101, "{answer:?}");
        client
    }

    async fn next(&mut self) -> String {
        let came = timeout(PATIENCE, self.came.recv()).await;
        came.expect("comes in time").unwrap()
    }

    fn proxy(&mut self) -> &mut Process {
        &mut self.stack.proxy
    }
}

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Returns a request for a WebSocket.
fn upgrade(query: &str) -> String {
    format!(
        "GET /ws?{query} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    )
}

/// Returns the answer to the key of a request (RFC 6455 §4.2.2).
fn accept(request: &Message) -> String {
    let key = request.fields("sec-websocket-key")[0];
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// Reads the head of a request, answers it, and echoes what comes.
async fn serve(mut tls: Tls, came: Arc<mpsc::UnboundedSender<String>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tls.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let request = Message {
        head,
        body: Vec::new(),
    };
    let is = |query: &str| request.start_line().contains(query);
    came.send(request.head.clone()).ok()?;
    let plain = if !is("/ws") || is("refused") {
        Some("403 Forbidden")
    } else {
        is("plain").then_some("200 OK")
    };
    if let Some(status) = plain {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 3\r\n\r\nno\n");
        tls.write_all(answer.as_bytes()).await.ok()?;
        return tls.shutdown().await.ok();
    }
    if is("late") {
        // The bytes that the caller sent ahead must not come before the upgrade.
        let early = timeout(Duration::from_millis(300), tls.read_u8()).await;
        assert!(early.is_err(), "{early:?}");
    }
    let accept = if is("wrong") {
        KEY.to_owned()
    } else {
        accept(&request)
    };
    let protocol = if is("other") { "h2c" } else { "websocket" };
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\nhello"
    );
    tls.write_all(answer.as_bytes()).await.ok()?;
    tls.flush().await.ok()?;
    let mut buffer = [0; 1024];
    loop {
        let read = tls.read(&mut buffer).await.unwrap_or(0);
        came.send(String::from_utf8_lossy(&buffer[..read]).into_owned())
            .ok()?;
        match (read, &buffer[..read]) {
            (0, _) => {
                tls.write_all(b"bye").await.ok()?;
                return tls.shutdown().await.ok();
            }
            (_, b"end") => return tls.shutdown().await.ok(),
            (_, b"cut") => return tls.into_inner().0.shutdown().await.ok(),
            (_, bytes) => tls.write_all(bytes).await.ok()?,
        }
        tls.flush().await.ok()?;
    }
}

/// Reads exactly these bytes.
async fn reads(client: &mut Client, expected: &str) {
    let read = timeout(PATIENCE, client.read_exactly(expected.len())).await;
    assert_eq!(
        String::from_utf8_lossy(&read.expect("comes in time")),
        expected
    );
}

#[tokio::test]
async fn websocket_carries_bytes_both_ways_after_its_upgrade_p100() {
    let mut sockets = Sockets::new(&[]).await;
    let mut client = Client::sending(&sockets.stack.https, upgrade("late")).await;
    client.send("early").await;
    let answer = client.answer().await.unwrap();
    assert_eq!(answer.start_line(), "HTTP/1.1 101 Switching Protocols");
    for (name, value) in [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ("sec-websocket-protocol", "chat"),
    ] {
        assert_eq!(answer.fields(name), [value], "{name}");
    }
    let request = Message {
        head: sockets.next().await,
        body: Vec::new(),
    };
    assert_eq!(request.start_line(), "GET /ws?late HTTP/1.1");
    for (name, value) in [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", KEY),
        ("sec-websocket-version", "13"),
        ("x-forwarded-for", "127.0.0.1"),
    ] {
        assert_eq!(request.fields(name), [value], "{name}");
    }
    assert!(request.fields("transfer-encoding").is_empty());
    reads(&mut client, "helloearly").await;
    for text in ["a", "GET / HTTP/1.1\r\n\r\n"] {
        client.send(text).await;
        reads(&mut client, text).await;
    }
}

#[tokio::test]
async fn each_end_of_a_websocket_is_what_it_is_on_the_other_side_p100() {
    let mut sockets = Sockets::new(&[]).await;
    for (last, end) in [("end", End::Clean), ("cut", End::Abrupt)] {
        let mut client = sockets.open("").await;
        client.send(last).await;
        assert_eq!(client.end().await, (b"hello".to_vec(), end), "{last}");
    }
    while sockets.next().await != "cut" {}
    // The caller closes its side, and the upstream still has something to say.
    let mut client = sockets.open("").await;
    client.finish().await;
    assert_eq!(client.end().await, (b"hellobye".to_vec(), End::Clean));
    // The caller vanishes.
    sockets.next().await;
    assert_eq!(sockets.next().await, "");
    let client = sockets.open("").await;
    sockets.next().await;
    drop(client);
    assert_eq!(
        sockets.next().await,
        "",
        "the upstream's connection ends too"
    );
}

#[tokio::test]
async fn websocket_that_the_upstream_does_not_open_is_refused_p100() {
    let mut sockets = Sockets::new(&[]).await;
    for (query, status) in [("refused", 403), ("plain", 200)] {
        let mut client = Client::sending(&sockets.stack.https, upgrade(query)).await;
        let answer = client.answer().await.unwrap();
        assert_eq!((answer.status(), &answer.body[..]), (status, &b"no\n"[..]));
        assert_eq!(answer.fields("connection"), ["close"], "P102");
        assert_eq!(client.end().await, (Vec::new(), End::Clean), "P102");
    }
    for (query, reason) in [
        ("wrong", "not the answer to the key"),
        ("other", "another protocol"),
    ] {
        let mut client = Client::sending(&sockets.stack.https, upgrade(query)).await;
        assert_eq!(client.answer().await.unwrap().status(), 502, "{query}");
        sockets.proxy().logged(reason).await;
    }
    // A path that is not forwarded opens nothing.
    let elsewhere = upgrade("").replace("/ws", "/elsewhere");
    let mut client = Client::sending(&sockets.stack.https, elsewhere).await;
    assert_eq!(client.answer().await.unwrap().status(), 404);
}

#[tokio::test]
async fn upstream_without_http1_opens_no_websocket_p100() {
    let stack = ProxyStack::answering(&["h2"], &["--path", "/ws"], async |_| unreachable!()).await;
    let mut client = Client::sending(&stack.https, upgrade("")).await;
    assert_eq!(client.answer().await.unwrap().status(), 502);
    stack
        .proxy
        .logged("it does not speak HTTP/1.1, which a WebSocket needs")
        .await;
}

#[tokio::test]
async fn websocket_may_be_silent_for_the_stream_idle_timeout_h009() {
    let times = ["--body-timeout", "200ms", "--stream-idle-timeout", "3s"];
    // The bytes of a WebSocket are not the body of a request.
    let sockets = Sockets::new(&[&times[..], &["--max-body", "2"]].concat()).await;
    let mut client = sockets.open("").await;
    reads(&mut client, "hello").await;
    for _ in 0..6 {
        sleep(Duration::from_millis(600)).await;
        client.send("a").await;
        reads(&mut client, "a").await;
    }
    assert_eq!(client.end().await, (Vec::new(), End::Abrupt));
}

#[tokio::test]
async fn websocket_counts_as_a_request_that_waits_for_its_caller_h010() {
    let sockets = Sockets::new(&["--max-requests", "1"]).await;
    let mut first = sockets.open("").await;
    reads(&mut first, "hello").await;
    // The oldest of the source ends for a further one.
    let mut second = sockets.open("").await;
    reads(&mut second, "hello").await;
    assert_eq!(first.end().await.1, End::Abrupt);
    second.send("a").await;
    reads(&mut second, "a").await;
}

#[tokio::test]
async fn websocket_counts_as_a_connection_h010() {
    let limits = [
        ["--max-connections", "1"],
        ["--max-connections-per-address", "9"],
        ["--handshake-timeout", "2s"],
    ];
    let sockets = Sockets::new(&limits.concat()).await;
    let mut open = sockets.open("").await;
    reads(&mut open, "hello").await;
    let mut other = Client::sending(&sockets.stack.https, get(&[])).await;
    assert!(other.answer().await.is_none(), "there is no room");
    drop(open);
    let mut other = Client::sending(&sockets.stack.https, get(&[])).await;
    assert_eq!(other.answer().await.unwrap().status(), 403);
}

#[tokio::test]
async fn stop_closes_websockets_when_the_drain_timeout_has_passed_h010() {
    let mut sockets = Sockets::new(&["--drain-timeout", "3s"]).await;
    let mut client = sockets.open("").await;
    reads(&mut client, "hello").await;
    sockets.proxy().signal(Signal::SIGTERM);
    sockets.proxy().logged("stopping").await;
    client.send("still here").await;
    reads(&mut client, "still here").await;
    assert_eq!(client.end().await.1, End::Abrupt);
    assert!(sockets.proxy().ended().await.success());
}
