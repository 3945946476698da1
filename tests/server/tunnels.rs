use common::tls;
use h2::ext::Protocol;
use http::{Request, Response, StatusCode};
use serve::{Handler, Limits, Received, Shared, body::Body, peer::Peer, shutdown};
use tokio::net::TcpListener;

use harness::{
    Stack,
    raw::{Client, End},
};

#[tokio::test]
async fn connect_makes_no_tunnel_of_the_server_h012() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let https = stack.https(server.listening().await);
    let token = stack.token(|_| ());
    for target in ["/", "a:443", "https://a/"] {
        let connect = format!(
            "CONNECT {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        let mut client = Client::sending(&https, connect).await;
        let answer = client.answer().await.unwrap();
        if target != "a:443" {
            assert_eq!(answer.status(), 405, "{target}");
            assert_eq!(answer.fields("allow").len(), 1, "{target}");
        }
        assert!(answer.status() >= 400, "{target}: {answer:?}");
        assert_eq!(answer.fields("connection"), ["close"], "{target}");
        client.send("anything").await;
        assert_eq!(client.end().await, (Vec::new(), End::Clean), "{target}");
    }
    // HTTP/2 opens WebSockets by CONNECT too, and the server has none.
    let tls = https.connect(b"h2").await;
    let (mut sender, connection) = h2::client::handshake(tls).await.unwrap();
    tokio::spawn(connection);
    let connect = Request::connect("https://a/")
        .header("authorization", format!("Bearer {token}"))
        .extension(Protocol::from_static("websocket"));
    let (answer, _stream) = sender
        .send_request(connect.body(()).unwrap(), false)
        .unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 405);
    assert!(answer.headers().contains_key("allow"));
}

/// Switches protocols, whether it was asked to or not.
#[derive(Clone)]
struct Switching;

impl Handler for Switching {
    async fn handle(&self, _: Request<Received>, _: &Peer) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response
    }
}

#[tokio::test]
async fn handler_that_switches_protocols_unasked_becomes_500_h012() {
    let stack = Stack::new().await;
    let identity = stack.identity().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let https = stack.https(listener.local_addr().unwrap().port());
    let (_stop, shutdown) = shutdown::channel();
    let tls = tls::server(&identity.x509).unwrap();
    let shared = Shared::new(Limits::new(10));
    tokio::spawn(serve::serve(listener, tls, Switching, shared, shutdown));
    for fields in ["", "Connection: upgrade\r\nUpgrade: h2c\r\n"] {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let mut client = Client::sending(&https, request).await;
        assert_eq!(client.answer().await.unwrap().status(), 500, "{fields:?}");
    }
}
