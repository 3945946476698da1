use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use h2::{RecvStream, ext::Protocol};
use harness::{
    listen::listen,
    raw::{Client, End, Message},
    x509::{Authority, expires_in},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, split},
    net::TcpStream,
    sync::mpsc,
};
use tokio_rustls::server::TlsStream;

use super::*;

/// The frame that the application sends first.
const HELLO: &[u8] = b"\x81\x05hello";
/// The beginning of a frame of which the application sends no more.
const HALF: &[u8] = b"\x81\x09half";
const CALLER_ID: &str = "spiffe://odd.test/caller";

/// The bytes that came from a caller.
#[derive(Debug)]
struct Came {
    count: usize,
    /// The time of the last ones.
    last: SystemTime,
}

/// A server in front of an application with WebSockets.
struct Sockets {
    stack: Stack,
    _server: Process,
    https: Https,
    /// The application tells what came through each WebSocket that has ended.
    ended: mpsc::UnboundedReceiver<Came>,
    root: Authority,
}

impl Sockets {
    async fn new(args: &[&str]) -> Self {
        let root = Authority::root();
        let federated = vec![root.bundle("odd.test")];
        let stack = Stack::with(SERVER_ID, |config| config.federated = federated).await;
        let (sender, ended) = mpsc::unbounded_channel();
        let port = listen(&stack, &["http/1.1"], move |tls| {
            let sender = sender.clone();
            async move { sender.send(serve(tls).await) }
        });
        let url = format!("https://localhost:{}", port.await);
        let args = [&["--upstream", &url, "--upstream-id", SERVER_ID], args].concat();
        let server = stack.server(&args).await;
        Self {
            https: stack.https(server.listening().await),
            stack,
            _server: server,
            ended,
            root,
        }
    }

    /// Waits until the application has seen the end of a WebSocket, through which nothing came.
    async fn wait_for_end(&mut self) {
        assert_eq!(self.came().await.count, 0);
    }

    /// Waits until the application has seen the end of a WebSocket, and returns what came before it.
    async fn came(&mut self) -> Came {
        let ended = timeout(PATIENCE, self.ended.recv()).await;
        ended.expect("ends in time").unwrap()
    }
}

/// Answers a request for a WebSocket, sends a frame, and reads until the end. To a request for `/flood` it also
/// sends frames without end.
async fn serve(mut tls: TlsStream<TcpStream>) -> Came {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tls.read_u8().await.unwrap());
    }
    let request = Message {
        head: String::from_utf8(head).unwrap(),
        body: Vec::new(),
    };
    let is = |path: &str| request.start_line().contains(path);
    let key = request.fields("sec-websocket-key")[0];
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()));
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    let half = if is("/half") { HALF } else { b"" };
    let sent = [answer.as_bytes(), HELLO, half].concat();
    let is_flood = is("/flood");
    let (mut reader, mut writer) = split(tls);
    let sending = async {
        writer.write_all(&sent).await?;
        writer.flush().await?;
        if !is_flood {
            return Ok::<_, std::io::Error>(());
        }
        loop {
            writer.write_all(&HELLO.repeat(1000)).await?;
        }
    };
    let reading = async {
        let mut came = Came {
            count: 0,
            last: UNIX_EPOCH,
        };
        let mut buffer = [0; 1024];
        // The server may end the connection without close_notify.
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            came.count += count;
            came.last = SystemTime::now();
        }
        came
    };
    // The end of the caller's side may come before that of the frames.
    let sent = async {
        let _ = sending.await;
        pending().await
    };
    tokio::select! {
        came = reading => came,
        never = sent => never,
    }
}

/// Returns a request for a WebSocket over HTTP/1.1 with this field.
fn upgrade(path: &str, field: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{field}\r\n"
    )
}

fn bearer(token: &Token) -> String {
    format!("Authorization: {}\r\n", token.bearer)
}

/// Returns the Close frame with the status 1008 and a reason (RFC 6455 §5.5.1).
fn close(reason: &str) -> Vec<u8> {
    let length = u8::try_from(reason.len() + 2).unwrap();
    [&[0x88, length, 0x03, 0xf0], reason.as_bytes()].concat()
}

/// Reads what comes over HTTP/2 until the stream ends or is reset.
async fn read_http2(mut body: RecvStream) -> (Vec<u8>, bool) {
    let mut read = Vec::new();
    loop {
        let data = timeout(PATIENCE, body.data()).await.expect("ends in time");
        match data {
            Some(Ok(data)) => read.extend(data),
            ended => return (read, ended.is_none()),
        }
    }
}

/// Opens a WebSocket over HTTP/2, and reads until it ends.
async fn over_http2(https: &Https, path: &str, token: &Token) -> (Vec<u8>, bool) {
    let tls = https.connect(b"h2").await;
    let (sender, connection) = h2::client::handshake(tls).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    // SETTINGS have come when another request is answered.
    let other = Request::get("https://a/").body(()).unwrap();
    let (answer, _) = sender.send_request(other, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 401);
    let connect = Request::connect(format!("https://a{path}"))
        .header("authorization", &token.bearer)
        .header("sec-websocket-version", "13")
        .extension(Protocol::from_static("websocket"));
    let sent = sender.send_request(connect.body(()).unwrap(), false);
    let (answer, _stream) = sent.unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    read_http2(answer.into_body()).await
}

#[tokio::test]
async fn a_websocket_is_closed_with_1008_when_its_token_expires_u030() {
    let mut sockets = Sockets::new(&TOKEN).await;
    let all = [HELLO, &close("the token has expired")].concat();

    let token = Token::new(&sockets.stack);
    let request = upgrade("/", &bearer(&token));
    let mut client = Client::sending(&sockets.https, request).await;
    assert_eq!(client.answer().await.unwrap().status(), 101);
    assert_eq!(client.end().await, (all.clone(), End::Clean));
    assert!(token.is_expired());
    sockets.wait_for_end().await;

    let token = Token::new(&sockets.stack);
    let ended = over_http2(&sockets.https, "/", &token).await;
    assert_eq!(ended, (all, true));
    assert!(token.is_expired());
    sockets.wait_for_end().await;
}

/// A Close frame in the middle of another frame would be read as a part of it.
#[tokio::test]
async fn a_websocket_breaks_off_if_a_frame_does_not_end_soon_after_its_token_u030() {
    let mut sockets = Sockets::new(&TOKEN).await;
    let token = Token::new(&sockets.stack);
    let request = upgrade("/half", &bearer(&token));
    let mut client = Client::sending(&sockets.https, request).await;
    assert_eq!(client.answer().await.unwrap().status(), 101);
    let (bytes, _) = client.end().await;
    assert_eq!(bytes, [HELLO, HALF].concat());
    sockets.wait_for_end().await;

    let token = Token::new(&sockets.stack);
    let ended = over_http2(&sockets.https, "/half", &token).await;
    assert_eq!(ended, ([HELLO, HALF].concat(), false));
    sockets.wait_for_end().await;
}

/// The answer's end waits for its reader, and the request must not wait with it.
#[tokio::test]
async fn a_caller_that_reads_nothing_sends_nothing_after_its_token_has_expired_u030() {
    let mut sockets = Sockets::new(&TOKEN).await;
    let token = Token::new(&sockets.stack);
    let request = upgrade("/flood", &bearer(&token));
    let mut client = Client::sending(&sockets.https, request).await;
    let end = token.expiry + Duration::from_secs(5);
    until(async || {
        client.send("x").await;
        SystemTime::now() >= end
    })
    .await;
    drop(client);
    let came = sockets.came().await;
    assert!(came.count > 0);
    let latest = token.expiry + Duration::from_secs(4);
    assert!(came.last < latest, "{came:?} {latest:?}");
}

#[tokio::test]
async fn a_websocket_of_a_caller_without_a_token_ends_with_its_certificate_u030() {
    let accept = ["--client-certificates", "accept"];
    let allow = ["--allow", "spiffe://odd.test/*"];
    let mut sockets = Sockets::new([TOKEN, accept, allow].as_flattened()).await;
    let life = Duration::from_secs(4);
    let svid = sockets
        .root
        .issue(CALLER_ID, |params| expires_in(params, life));
    let mut config = sockets.https.config(&[b"http/1.1"]);
    config.client_auth_cert_resolver = svid.presented();
    let connected = sockets.https.connect_with(config, "localhost").await;
    let mut client = Client::over(connected.unwrap());
    client.send(upgrade("/", "")).await;
    assert_eq!(client.answer().await.unwrap().status(), 101);
    let all = [HELLO, &close("the certificate has expired")].concat();
    assert_eq!(client.end().await, (all, End::Clean));
    sockets.wait_for_end().await;
}

#[tokio::test]
async fn a_websocket_without_an_end_continues_after_its_token_has_expired_u031() {
    let mut sockets = Sockets::new(&[]).await;
    let token = Token::new(&sockets.stack);
    let request = upgrade("/", &bearer(&token));
    let mut client = Client::sending(&sockets.https, request).await;
    assert_eq!(client.answer().await.unwrap().status(), 101);
    until(async || token.is_expired()).await;
    client.send("later").await;
    client.finish().await;
    assert_eq!(sockets.came().await.count, "later".len());
}
