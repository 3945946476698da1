//! An application without TLS. It answers gRPC calls as such, accepts WebSockets, and answers all other
//! requests as the server does.

use std::{
    convert::Infallible,
    future::{Ready, ready},
};

use anyhow::Result;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, UPGRADE},
};
use http_body_util::{BodyExt as _, Full, combinators::WithTrailers};
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
    upgrade,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::net::TcpListener;

use crate::tools::{GRPC, MESSAGE};

/// The opening of a WebSocket, with the key of RFC 6455 §1.3.
pub(crate) const OPENING: &[u8] = b"GET / HTTP/1.1\r\n\
    Host: localhost\r\n\
    Connection: Upgrade\r\n\
    Upgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// The answer to the key of [`OPENING`].
const ACCEPT: HeaderValue = HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");

type Trailers = Option<Result<HeaderMap, Infallible>>;
type Answer = WithTrailers<Full<Bytes>, Ready<Trailers>>;

/// Starts the application. Returns its port.
pub(crate) async fn start() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tcp.set_nodelay(true).ok();
            tokio::spawn(async move {
                let http = auto::Builder::new(TokioExecutor::new());
                // The caller counts failures.
                let _ = http
                    .serve_connection_with_upgrades(TokioIo::new(tcp), service_fn(answer))
                    .await;
            });
        }
    });
    Ok(port)
}

async fn answer(request: Request<Incoming>) -> hyper::Result<Response<Answer>> {
    if request.headers().contains_key(UPGRADE) {
        return Ok(accepted(request));
    }
    let (head, mut body) = request.into_parts();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    let kind = head.headers.get(CONTENT_TYPE);
    let (bytes, trailers) = match kind {
        Some(kind) if kind == GRPC => (MESSAGE, Some(Ok(ok()))),
        _ => (&b"Success!!!"[..], None),
    };
    let mut response = response(bytes, trailers);
    let kind = kind.cloned().map(|kind| (CONTENT_TYPE, kind));
    response.headers_mut().extend(kind);
    Ok(response)
}

/// Returns the trailers of a gRPC call that succeeds.
fn ok() -> HeaderMap {
    let status = HeaderName::from_static("grpc-status");
    HeaderMap::from_iter([(status, HeaderValue::from_static("0"))])
}

fn response(bytes: &'static [u8], trailers: Trailers) -> Response<Answer> {
    Response::new(Full::new(Bytes::from_static(bytes)).with_trailers(ready(trailers)))
}

/// Returns the answer that opens a WebSocket with [`OPENING`]. The WebSocket stays open until its peer
/// closes it.
fn accepted(request: Request<Incoming>) -> Response<Answer> {
    tokio::spawn(async move {
        if let Ok(websocket) = upgrade::on(request).await {
            let mut end = TokioIo::new(websocket);
            let _ = tokio::io::copy(&mut end, &mut tokio::io::sink()).await;
        }
    });
    let mut response = response(b"", None);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().extend([
        (CONNECTION, HeaderValue::from_static("upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_ACCEPT, ACCEPT),
    ]);
    response
}
