//! Requests and answers over HTTP/2, each on a task of its own.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use h2::{
    Reason, RecvStream,
    server::{Builder, Connection, SendResponse},
};
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, EXPECT},
};
use http_body::Body as _;
use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use super::{answer::Answer, exchange::Serving, request::RequestInFlight, windows::NARROW};
use crate::{
    body::{Body, BoxError, Wire},
    handler::Handler,
    http2::{Inflow, SendError, remove_connection_fields, send_body},
    limits::{MAX_HEADER_BYTES, MAX_STREAMS},
    websocket::{self, WebSocket},
};

/// The resets of streams that no handler has seen, before GOAWAY (rapid reset, CVE-2023-44487, RFC 9113
/// §10.5).
const MAX_PENDING_RESETS: usize = 20;

/// The resets that a peer's errors cause this side to send, before GOAWAY (CVE-2025-8671).
const MAX_ERROR_RESETS: usize = 200;

/// The number of streams that stay known after this side has reset them, and the time. A frame that
/// arrives late for such a stream is not an error.
const RESETS_KEPT: usize = 1024;
const RESETS_KEPT_FOR: Duration = Duration::from_secs(10);

/// The bytes of an answer that one stream holds while its connection is slower than the answer's source.
const STREAM_SEND_BUFFER: usize = 64 * 1024;

/// The time after which a quiet connection gets a PING, and the time for its answer.
pub(super) const PING_EVERY: Duration = Duration::from_secs(20);
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Waits for the client's connection preface (RFC 9113 §3.4).
pub(super) async fn handshake<I>(io: I) -> Result<Connection<I, Bytes>, h2::Error>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    Builder::new()
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(Some(MAX_ERROR_RESETS))
        .max_concurrent_reset_streams(RESETS_KEPT)
        .reset_stream_duration(RESETS_KEPT_FOR)
        .max_send_buffer_size(STREAM_SEND_BUFFER)
        .enable_connect_protocol()
        .initial_window_size(NARROW.stream)
        .initial_connection_window_size(NARROW.connection)
        .handshake(io)
        .await
}

/// Serves requests as they come, until the connection ends.
pub(super) fn poll_serve<H: Handler, I>(
    connection: &mut Connection<I, Bytes>,
    serving: &Arc<Serving<H>>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), h2::Error>>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(accepted) = ready!(connection.poll_accept(cx)) {
        let (request, respond) = accepted?;
        // The request is counted here rather than when its task first runs.
        let in_flight = RequestInFlight::begin(&serving.activity);
        let stream = exchange(Arc::clone(serving), in_flight, request, respond);
        // The future is boxed because it is large and would be moved about a dozen times before it runs.
        tokio::spawn(Box::pin(stream));
    }
    Poll::Ready(Ok(()))
}

async fn exchange<H: Handler>(
    serving: Arc<Serving<H>>,
    in_flight: Arc<RequestInFlight>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let is_head = request.method() == Method::HEAD;
    let expects = request.headers().contains_key(EXPECT);
    let is_websocket = websocket::is_extended_connect(&request);
    let (mut head, stream) = request.into_parts();
    if is_websocket {
        head.extensions.insert(WebSocket);
    }
    let body = Wire::Http2(Inflow::new(stream, &head.headers));
    let answering = pin!(serving.answer(Request::from_parts(head, body), &in_flight));
    let Some(mut response) = answered(answering, &mut respond, &in_flight, expects).await else {
        return;
    };
    // HTTP/2 accepts a WebSocket by a success (RFC 8441 §5).
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        *response.status_mut() = StatusCode::OK;
    }
    if let Some(rest) = in_flight.take_rest() {
        rest.read_in_background();
    }
    if let Err(error) = send(&serving, &in_flight, response, respond, is_head).await {
        debug!(peer = %serving.peer, %error, "stream ended");
    }
    in_flight.end();
}

/// Waits for the answer, and sends `100 (Continue)` when the handler reads from the body. Returns `None`
/// if the caller resets the stream.
///
/// `answering` comes pinned, because the futures of this function and of its caller would both have room
/// for it otherwise.
async fn answered(
    mut answering: Pin<&mut impl Future<Output = Response<Body>>>,
    respond: &mut SendResponse<Bytes>,
    in_flight: &RequestInFlight,
    mut expects: bool,
) -> Option<Response<Body>> {
    poll_fn(|cx| {
        if let Poll::Ready(response) = answering.as_mut().poll(cx) {
            return Poll::Ready(Some(response));
        }
        if expects && in_flight.poll_wants_body(cx).is_ready() {
            expects = false;
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::CONTINUE;
            // An error is ignored, because the answer then fails too.
            let _ = respond.send_informational(response);
        }
        respond.poll_reset(cx).map(|_| None)
    })
    .await
}

/// The reason why an answer was not sent as a whole. It is routine and logged at debug level.
#[derive(Debug, thiserror::Error)]
enum Unsent {
    #[error("{0}")]
    Peer(#[from] h2::Error),
    #[error("the answer's body: {0}")]
    Body(BoxError),
    #[error("answer not read in time")]
    Stalled,
    #[error("evicted for another source's request")]
    Evicted,
}

async fn send<H>(
    serving: &Serving<H>,
    in_flight: &Arc<RequestInFlight>,
    response: Response<Body>,
    mut respond: SendResponse<Bytes>,
    is_head: bool,
) -> Result<(), Unsent> {
    let (mut head, body) = response.into_parts();
    remove_connection_fields(&mut head.headers);
    let length = body.size_hint().exact().filter(|&length| length > 0);
    if let Some(length) = length {
        let length = || HeaderValue::from(length);
        head.headers.entry(CONTENT_LENGTH).or_insert_with(length);
    }
    let head = Response::from_parts(head, ());
    if is_head || body.is_end_stream() {
        respond.send_response(head, true)?;
        return Ok(());
    }
    let mut stream = respond.send_response(head, false)?;
    let patience = Some(serving.limits.body_timeout);
    let timeout = serving.limits.stream_idle_timeout;
    let body = Answer::new(body, Arc::clone(in_flight), timeout);
    let sending = send_body(&mut stream, body, patience, |waits| {
        in_flight.waits_for_reader(waits);
    });
    // The answer is polled first, because it may be the short one that tells of the eviction.
    let sent = tokio::select! {
        biased;
        sent = sending => Some(sent),
        () = in_flight.evicted() => None,
    };
    match sent {
        Some(Ok(())) => Ok(()),
        Some(Err(SendError::Peer(error))) => Err(error.into()),
        Some(Err(SendError::Body(error))) => Err(Unsent::Body(error)),
        Some(Err(SendError::Stalled)) => Err(Unsent::Stalled),
        None => {
            stream.send_reset(Reason::CANCEL);
            Err(Unsent::Evicted)
        }
    }
}
