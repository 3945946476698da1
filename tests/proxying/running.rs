use std::sync::Arc;

use common::tls;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::Signal;
use serve::{
    Handler, Limits, Received, Shared,
    body::{self, Body},
    peer::Peer,
    shutdown,
};
use tokio::{io::AsyncWriteExt, net::TcpListener};
use tokio_rustls::TlsAcceptor;

use harness::{
    Stack,
    frames::{self, frame},
    https,
    proxy_stack::ProxyStack,
    raw::{self, Client, End, Reply},
};

use crate::{CANARY, Proxied, get, request};

#[tokio::test]
async fn callers_that_do_not_read_delay_no_other_p171() {
    const SLOW: usize = 8;
    let large = Bytes::from(vec![b'x'; 32 * 1024 * 1024]);
    let stack = ProxyStack::answering(&["h2"], &["--cores", "1"], move |request| {
        let large = large.clone();
        async move {
            match request.uri().query() {
                Some("large") => Response::new(Body::full(large)),
                _ => Response::new(Body::full("small")),
            }
        }
    })
    .await;
    let https = &stack.https;
    // All answers come over one connection to the upstream, because it is HTTP/2.
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let line = request(&["GET /?large HTTP/1.1", "Host: a"], "");
        let mut client = Client::sending(https, line).await;
        client.read_some(1).await;
        slow.push(client);
    }
    // These requests are enough to fill every buffer of the slow callers meanwhile.
    let mut quick = Client::new(https).await;
    for _ in 0..1000 {
        quick.send(get(&[])).await;
        assert_eq!(quick.answer().await.unwrap().body, b"small");
    }

    // A caller opens two streams on one connection, and reads one of them.
    let http2 = https.connect(b"h2").await;
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .handshake(TokioIo::new(http2))
        .await
        .unwrap();
    tokio::spawn(connection);
    let url = |query: &str| format!("https://a/?{query}");
    let ask = |query| {
        Request::get(url(query))
            .body(Empty::<Bytes>::new())
            .unwrap()
    };
    let _unread = sender.send_request(ask("large")).await.unwrap();
    let answer = sender.send_request(ask("small")).await.unwrap();
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "small"
    );
}

#[tokio::test]
async fn requests_that_are_sent_ahead_wait_unread_p066() {
    const MORE_THAN_BUFFERS: usize = 64 * 1024 * 1024;
    let proxied = Proxied::answered(|_| Reply::Silence, &[]).await;
    let before = proxied.proxy.peak_memory();
    let mut client = Client::sending(&proxied.https, get(&[])).await;
    proxied
        .upstream
        .wait(|all| all.iter().any(|one| one.requests.len() == 1))
        .await;
    let sent = client
        .send_ahead(get(&[]).as_bytes(), MORE_THAN_BUFFERS)
        .await;
    assert!(sent < MORE_THAN_BUFFERS / 2, "{sent} bytes were taken");
    assert_eq!(proxied.upstream.requests().len(), 1, "one is in flight");
    let grown = proxied.proxy.peak_memory_above(before);
    assert!(grown < 4 * 1024, "the proxy grew by {grown} KiB");
}

#[tokio::test]
async fn stop_lets_requests_in_flight_finish_p172() {
    let proxied = Proxied::answered(
        |request| {
            if request.start_line().contains("canary") {
                raw::echo(request)
            } else {
                Reply::Silence
            }
        },
        &["--drain-timeout", "3s"],
    )
    .await;
    let mut proxied = proxied;
    let mut idle = Client::sending(&proxied.https, CANARY).await;
    assert_eq!(idle.answer().await.unwrap().status(), 200);
    let mut waiting = Client::sending(&proxied.https, get(&[])).await;
    proxied
        .upstream
        .wait(|all| all.iter().any(|one| one.requests.len() == 2) || all.len() == 2)
        .await;
    proxied.proxy.signal(Signal::SIGTERM);
    assert_eq!(
        idle.end().await,
        (Vec::new(), End::Clean),
        "an idle connection ends, and is not cut off"
    );
    // A request that never finishes is broken off when the drain timeout has passed.
    assert!(waiting.answer().await.is_none());
    assert!(proxied.proxy.ended().await.success());
    proxied.proxy.logged("drain timeout passed").await;
}

#[tokio::test]
async fn log_lines_cannot_be_forged_p175_p176() {
    let mut proxied = Proxied::new().await;
    let long = "a".repeat(5000);
    for line in [
        format!("GET /{long} HTTP/1.1"),
        format!("{long} / HTTP/1.1"),
        "GET /%0d%0aINFO%20forged HTTP/1.1".to_owned(),
        "GET /\"\\u{1b} HTTP/1.1".to_owned(),
        "GET /\u{1b}[2K HTTP/1.1".to_owned(),
        "GET /\u{9b}2K\u{2028}INFO HTTP/1.1".to_owned(),
    ] {
        let fields = ["Host: a", "User-Agent: \u{2028}forged"];
        proxied
            .probe(request(&[&[line.as_str()], &fields[..]].concat(), ""))
            .await;
    }
    // P176: credentials, cookies and queries must not be in a log.
    let secret = ["Authorization: Bearer se.cr.et", "Cookie: se.cr.et"];
    let outcome = proxied
        .probe(request(
            &[&["GET /?token=se.cr.et HTTP/1.1", "Host: a"], &secret[..]].concat(),
            "",
        ))
        .await;
    assert_eq!(outcome.status, 200);
    let outcome = proxied
        .probe(request(
            &[&["GET /no?token=se.cr.et HTTP/1.1", "Host: a"], &secret[..]].concat(),
            "",
        ))
        .await;
    assert!(
        !String::from_utf8(outcome.answer.unwrap().body)
            .unwrap()
            .contains("se.cr.et"),
        "P176"
    );
    let log = proxied.proxy.whole_log().await;
    assert!(!log.contains("se.cr.et"), "P176");
    assert!(log.contains("%0d%0aINFO%20forged"));
    for line in log.lines() {
        assert!(line.len() < 600, "{line}");
        let is_control = |c: char| c.is_control() || c == '\u{2028}';
        assert!(!line.contains(is_control), "{line:?}");
        assert!(!line.starts_with("INFO"), "{line}");
    }
}

/// Starts an upstream that sends GOAWAY with this debug data on each connection, and returns its port.
async fn leaving(stack: &Stack, debug_data: Vec<u8>) -> u16 {
    const ENHANCE_YOUR_CALM: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 11];
    let goaway = [&ENHANCE_YOUR_CALM[..], &debug_data].concat();
    let bytes = [
        frame(frames::SETTINGS, 0, 0, &[]),
        frame(frames::GOAWAY, 0, 0, &goaway),
    ];
    let identity = stack.identity().await;
    let acceptor = TlsAcceptor::from(tls::server(&identity.x509).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let _identity = identity;
        // The loop accepts more than one connection, because an unprocessed request is sent again.
        while let Ok((tcp, _)) = listener.accept().await {
            let mut tls = acceptor.accept(tcp).await.unwrap();
            tls.write_all(&bytes.concat()).await.unwrap();
            tls.flush().await.unwrap();
            // The proxy may end the connection in any way.
            let _ = tokio::io::copy(&mut tls, &mut tokio::io::sink()).await;
        }
    });
    port
}

#[tokio::test]
async fn debug_data_of_goaway_is_cut_and_escaped_in_the_log_p175_p176() {
    let stack = Stack::new().await;
    let upstream = leaving(&stack, "\n\u{1b}INFO".repeat(2000).into()).await;
    let mut proxy = stack.proxy(upstream, &["--cores", "1"]).await;
    let https = stack.https(proxy.listening().await);
    let answer = https.send(https::get(&[])).await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.body, "502 Bad Gateway\n");
    let line = proxy.logged(" failed: ").await;
    assert!(line.len() < 600, "{} bytes: {line:.600}", line.len());
    for line in proxy.whole_log().await.lines() {
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
        assert!(!line.starts_with("INFO"), "{line}");
    }
}

/// Panics if the request asks for it.
#[derive(Clone)]
struct Panicking;

impl Handler for Panicking {
    async fn handle(&self, request: Request<Received>, _: &Peer) -> Response<Body> {
        assert_ne!(request.uri().query(), Some("panic"), "as asked for");
        body::text(http::StatusCode::OK, "fine")
    }
}

#[tokio::test]
async fn panic_in_a_handler_ends_only_its_request_p177() {
    let stack = Stack::new().await;
    let identity = stack.identity().await;
    let tls = tls::server(&identity.x509).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let https = stack.https(listener.local_addr().unwrap().port());
    let (_stop, shutdown) = shutdown::channel();
    tokio::spawn(serve::serve(
        listener,
        Arc::clone(&tls),
        Panicking,
        Shared::new(Limits::new(10)),
        shutdown,
    ));
    let mut other = Client::sending(&https, get(&[])).await;
    assert_eq!(other.answer().await.unwrap().body, b"fine");

    let panics = request(&["GET /?panic HTTP/1.1", "Host: a"], "");
    other.send(panics).await;
    assert_eq!(other.answer().await.unwrap().status(), 500);

    other.send(get(&[])).await;
    assert_eq!(other.answer().await.unwrap().body, b"fine");
    let mut third = Client::sending(&https, get(&[])).await;
    assert_eq!(third.answer().await.unwrap().body, b"fine");
}
