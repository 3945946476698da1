//! A listening client, and an application that calls it: HTTP without TLS.

use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use tokio::net::{TcpStream, UnixStream};

use harness::{Stack, http::send, process::Process};

/// Starts a client that listens on a free port, and returns it with its address.
pub(crate) async fn client(stack: &Stack, args: &[&str]) -> (Process, String) {
    let args = [&["--listen", "127.0.0.1:0"], args].concat();
    let client = stack.spawn("client", &args);
    let port = client.listening().await;
    (client, format!("127.0.0.1:{port}"))
}

/// The answer to an application.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Sends a request to the client at `address` (host and port, or `unix:` and a path) over `version`.
pub(crate) async fn call(address: &str, version: Version, request: Request<Full<Bytes>>) -> Answer {
    let (head, body) = respond(address, version, request).await.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        status: head.status.as_u16(),
        body: String::from_utf8(body.into()).unwrap(),
    }
}

/// Does the same as [`call`], and returns the response before its body has come.
pub(crate) async fn respond(
    address: &str,
    version: Version,
    request: Request<Full<Bytes>>,
) -> Response<Incoming> {
    match address.strip_prefix("unix:") {
        Some(path) => send(UnixStream::connect(path).await.unwrap(), version, request).await,
        None => send(TcpStream::connect(address).await.unwrap(), version, request).await,
    }
    .unwrap()
}
