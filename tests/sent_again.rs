use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use common::tls;
use http::Request;
use http_body_util::Full;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use harness::{
    Stack,
    frames::{self, frame},
    https::get,
    raw::{self, Answer, Client, Upstream},
};

use crate::spread::{Load, proxy, server, stopped};

#[tokio::test]
async fn a_server_that_restarted_costs_no_get_after_it() {
    let stack = Stack::new().await;
    let first = server(&stack, 0).await;
    let port = first.listening().await;
    let proxy = stack.proxy(port, &["--cores", "1"]).await;
    let https = stack.https(proxy.listening().await);
    let token = stack.token(|_| ());
    let mut running = first;
    for _ in 0..3 {
        let load = Load::on(&https, &token);
        load.goes_on().await;
        assert_eq!(load.failed().await, 0);
        stopped(running).await;
        running = server(&stack, port).await;
    }
}

#[tokio::test]
async fn what_may_have_an_effect_is_sent_to_one_upstream_only() {
    let stack = Stack::new().await;
    for (method, sent) in [("GET", 2), ("POST", 1), ("DELETE", 1)] {
        let closing = |_: &raw::Message| Answer::Last(Vec::new());
        let upstreams = [
            Upstream::new(&stack, closing).await,
            Upstream::new(&stack, closing).await,
        ];
        let ports = upstreams.each_ref().map(|one| one.port);
        let proxy = proxy(&stack, &ports, &["--cores", "1"]).await;
        let https = stack.https(proxy.listening().await);
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        let mut client = Client::sending(&https, request).await;
        assert_eq!(client.answer().await.unwrap().status(), 502, "{method}");
        let requests = upstreams.each_ref().map(|one| one.requests().len());
        assert_eq!(requests.iter().sum::<usize>(), sent, "{method}");
        assert!(
            requests.iter().all(|one| *one <= 1),
            "{method}: on another one"
        );
    }
}

/// What the first connection says to a request that it has not looked at; the next ones answer 200.
async fn refusing(stack: &Stack, refusal: fn(u32) -> Vec<u8>) -> (u16, Arc<AtomicUsize>) {
    let identity = stack.identity().await;
    let mut config = Arc::unwrap_or_clone(tls::server(&identity.x509).unwrap());
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::<AtomicUsize>::default();
    let seen = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let mut tls = acceptor.accept(tcp).await.unwrap();
            let is_first = seen.fetch_add(1, SeqCst) == 0;
            tokio::spawn(async move {
                tls.write_all(&frame(frames::SETTINGS, 0, 0, &[]))
                    .await
                    .unwrap();
                let mut preface = [0; 24];
                tls.read_exact(&mut preface).await.unwrap();
                // Until the connection ends.
                while let Ok(stream) = next_request(&mut tls).await {
                    let answer = match is_first {
                        true => refusal(stream),
                        // 200, which HPACK has as one octet.
                        false => frame(
                            frames::HEADERS,
                            frames::END_STREAM | frames::END_HEADERS,
                            stream,
                            &[0x88],
                        ),
                    };
                    tls.write_all(&answer).await.unwrap();
                }
            });
        }
        drop(identity);
    });
    (port, connections)
}

/// Reads frames up to the next HEADERS, and answers PINGs; returns its stream.
async fn next_request(tls: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<u32> {
    const ACK: u8 = 1;
    loop {
        let mut head = [0; 9];
        tls.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        tls.read_exact(&mut payload).await?;
        match kind {
            frames::HEADERS => return Ok(u32::from_be_bytes(stream)),
            frames::PING if flags & ACK == 0 => {
                tls.write_all(&frame(frames::PING, ACK, 0, &payload))
                    .await?;
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn what_http2_gives_back_unread_is_sent_again() {
    let refused = |stream| {
        frame(
            frames::RST_STREAM,
            0,
            stream,
            &frames::REFUSED_STREAM.to_be_bytes(),
        )
    };
    // No stream was looked at, and there is no error.
    let goaway = |_| frame(frames::GOAWAY, 0, 0, &[0; 8]);
    // This one was looked at.
    let cancelled = |stream| frame(frames::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    let stack = Stack::new().await;
    for (name, refusal, method, status) in [
        ("REFUSED_STREAM", refused as fn(u32) -> Vec<u8>, "POST", 200),
        ("GOAWAY", goaway, "POST", 200),
        ("GOAWAY", goaway, "GET", 200),
        ("CANCEL", cancelled, "POST", 502),
        ("CANCEL", cancelled, "GET", 200),
    ] {
        let (port, connections) = refusing(&stack, refusal).await;
        let proxy = stack.proxy(port, &["--cores", "1"]).await;
        let https = stack.https(proxy.listening().await);
        let request = Request::builder()
            .method(method)
            .uri("/")
            .body(Full::default());
        let answer = https.send(request.unwrap()).await;
        assert_eq!(answer.status, status, "{name} {method}");
        let expected = if status == 200 { 2 } else { 1 };
        assert_eq!(connections.load(SeqCst), expected, "{name} {method}");
    }
}

#[tokio::test]
async fn a_connection_that_closes_as_it_is_used_fails_no_get() {
    let stack = Stack::new().await;
    let idle = Duration::from_millis(60);
    let server = stack.spawn(
        "server",
        &["--listen", "127.0.0.1:0", "--idle-timeout", "60ms"],
    );
    let proxy = stack
        .proxy(server.listening().await, &["--cores", "1"])
        .await;
    let token = format!("Bearer {}", stack.token(|_| ()));
    let https = stack.https(proxy.listening().await);
    for step in 0..40 {
        let answer = https.send(get(&[("authorization", &token)])).await;
        assert_eq!(answer.status, 200, "{}", proxy.log().join("\n"));
        // Just about when the server closes its connection.
        tokio::time::sleep(idle - Duration::from_millis(10) + Duration::from_millis(step / 2))
            .await;
    }
}
