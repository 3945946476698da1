//! Sends a request over a connection that is open.

use forward::outbound::RequestBody;
use http::{Request, Response, Version};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

/// Sends the first request of a connection over `version`. Returns the answer, whose body is still to be
/// read.
///
/// # Errors
/// Fails when there is no head of an answer.
pub async fn send<B: RequestBody>(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    version: Version,
    request: Request<B>,
) -> hyper::Result<Response<Incoming>> {
    let io = TokioIo::new(io);
    if version == Version::HTTP_2 {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        return sender.send_request(request).await;
    }
    let (mut sender, connection) = http1::handshake(io).await?;
    tokio::spawn(connection);
    sender.send_request(request).await
}
