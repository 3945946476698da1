use harness::{
    Stack, https::Https, listen::listen, process::allow_open_files, proxy_stack::ProxyStack,
    raw::Client,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};

/// The WebSockets that are open at once, and the most memory that the proxy has for each, in KiB. It has
/// two TLS connections for each.
const OPEN: usize = 1000;
const EACH: usize = 40;

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Starts an upstream that opens WebSockets and echoes, and a proxy.
async fn proxied() -> ProxyStack<u16> {
    let upstream = async |stack: &Stack| {
        listen(stack, &["http/1.1"], async |mut tls| {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(tls.read_u8().await?);
            }
            tls.write_all(ANSWER.as_bytes()).await?;
            tls.flush().await?;
            let mut byte = [0];
            while tls.read(&mut byte).await? > 0 {
                tls.write_all(&byte).await?;
                tls.flush().await?;
            }
            tls.shutdown().await
        })
        .await
    };
    ProxyStack::before(upstream, &["--cores", "1"]).await
}

/// Opens a WebSocket, and sends something through it.
async fn open(https: Https) -> Client {
    let mut client = Client::sending(&https, REQUEST).await;
    assert_eq!(client.answer().await.unwrap().status(), 101);
    client.send("a").await;
    assert_eq!(client.read_exactly(1).await, b"a");
    client
}

#[tokio::test]
async fn idle_websocket_takes_little_memory_h010() {
    allow_open_files(4 * OPEN as u64);
    let stack = proxied().await;
    // The first one makes the process take the memory that it needs once.
    let _first = open(stack.https.clone()).await;
    let before = stack.proxy.peak_memory();
    let mut opening = JoinSet::new();
    let mut sockets = Vec::new();
    for _ in 0..OPEN {
        opening.spawn(open(stack.https.clone()));
        if opening.len() >= 20 {
            sockets.push(opening.join_next().await.unwrap().unwrap());
        }
    }
    sockets.extend(opening.join_all().await);
    let each = stack.proxy.peak_memory_above(before) / OPEN;
    assert_eq!(sockets.len(), OPEN);
    assert!(each <= EACH, "{each} KiB for each");
}
