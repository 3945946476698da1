//! HTTP/2 towards an upstream: the connection, and requests on it.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use h2::{
    Reason,
    client::{Builder, ResponseFuture},
};
use http::{HeaderValue, Method, Request, Response, header::CONTENT_LENGTH, request::Parts};
use http_body::Body;
use hyper::body::Bytes;
use serve::{
    body::Wire,
    http2::{
        Inflow, Listening, MAX_COPIED, RoundTrip, dead, measure, remove_connection_fields,
        send_body,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    task::JoinSet,
};
use tracing::debug;

use super::{
    arriving::{Arriving, Exchange},
    prepared::{RequestBody, Whole},
    retry::Failure,
    upload::UploadBody,
};

/// Sends requests over one connection.
pub(super) type Sender = h2::client::SendRequest<Bytes>;

/// Flow-control windows, in bytes. A body that its caller does not read holds back at most its
/// stream's window. The connection's window is as large as can be, so that a few such bodies don't
/// hold back all other callers on the same connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = i32::MAX.cast_unsigned();

/// The longest head of an answer that is read before it is checked, in bytes. It is far more than any
/// that is passed on, because a longer one ends the whole connection (`h2` counts its frames).
const MAX_HEAD_READ: u32 = 16 * 1024 * 1024;

/// The bytes of a request's body that one stream holds for a connection that is slower than its caller.
const STREAM_SEND_BUFFER: usize = 64 * 1024;

/// The budget for unread small DATA frames of a connection. Each frame spends the bytes that it has
/// less than 256, so that about 250,000 frames may wait. The windows alone would allow a gigabyte.
const SMALL_FRAMES: usize = 64 * 1024 * 1024;

/// The number of streams that stay known after this side has reset them, and the time. Frames that
/// are on their way to such a stream are not errors.
const RESETS_KEPT: usize = 1024;
const RESETS_KEPT_FOR: Duration = Duration::from_secs(30);

/// The least round trip of an upstream that is far, by PING.
pub(super) const FAR: Duration = Duration::from_millis(20);

/// The pause between PINGs on a quiet connection, and the time for the answer. A dead connection that
/// nobody closed would otherwise take all requests.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Begins HTTP/2 on a connection, and serves it on a task of its own until its end. Measures the round
/// trip meanwhile.
///
/// Returns when the peer has answered a PING, because its SETTINGS have come by then. Before that, `h2`
/// assumes that any number of streams is allowed.
pub(super) async fn handshake<I>(
    io: I,
    is_exclusive: bool,
) -> Result<(Sender, Arc<RoundTrip>), h2::Error>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = if is_exclusive {
        Listening::new(io)
    } else {
        Listening::new(io).unvectored()
    };
    let heard = io.heard();
    let (sender, mut connection) = builder().handshake(io).await?;
    let mut ping = connection.ping_pong();
    let round_trip = Arc::<RoundTrip>::default();
    tokio::select! {
        ended = &mut connection => {
            let error = ended.err().unwrap_or_else(|| Reason::NO_ERROR.into());
            return Err(error);
        }
        () = measure(ping.as_mut(), &round_trip, FAR) => {}
    }
    tokio::spawn(async move {
        tokio::select! {
            ended = connection => {
                if let Err(error) = ended {
                    debug!(%error, "upstream connection ended");
                }
            }
            () = dead(ping, heard, PING_EVERY, PING_TIMEOUT) => {
                debug!("upstream connection ended: no answer to a PING");
            }
        }
    });
    Ok((sender, round_trip))
}

/// Returns the settings of a connection.
fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD_READ)
        .data_frame_budget(SMALL_FRAMES)
        .max_send_buffer_size(STREAM_SEND_BUFFER)
        .max_concurrent_reset_streams(RESETS_KEPT)
        .reset_stream_duration(RESETS_KEPT_FOR)
        // The answer to a request that was reset may be on its way, which is not an error.
        .max_local_error_reset_streams(None);
    builder
}

/// Returns whether neither an end nor a GOAWAY has come.
pub(super) fn is_open(sender: &mut Sender) -> bool {
    let ready = sender.poll_ready(&mut Context::from_waker(Waker::noop()));
    matches!(ready, Poll::Ready(Ok(())))
}

/// Sends a request whose body is in hand, in frames that `h2` writes together with those of other requests
/// ([`Listening::unvectored`]).
///
/// # Errors
/// Fails when the connection takes no more requests. Nothing was sent then.
pub(super) fn send_whole<B>(
    mut sender: Sender,
    request: Request<UploadBody<B>>,
) -> Result<ResponseFuture, Failure>
where
    B: RequestBody,
{
    let (head, body) = request.into_parts();
    let body = body.into_whole();
    let head = head_of(head, Some(body.bytes.len() as u64));
    let sent = sender.send_request(head, body.is_empty());
    let (answer, mut stream) = sent.map_err(Failure::Unsent)?;
    let Whole {
        mut bytes,
        trailers,
    } = body;
    // The parts are equal, because a peer may count short frames as abuse.
    let mut parts = bytes.len().div_ceil(MAX_COPIED);
    while parts > 0 {
        let part = bytes.split_to(bytes.len().div_ceil(parts));
        parts -= 1;
        stream.send_data(part, parts == 0 && trailers.is_none())?;
    }
    if let Some(trailers) = trailers {
        stream.send_trailers(*trailers)?;
    }
    Ok(answer)
}

/// An HTTP/2 connection for one request at a time, whose body may stand still.
pub(super) struct Single {
    sender: Sender,
    /// Closes with the body and the answer of the last request.
    request: Option<mpsc::Receiver<()>>,
}

impl From<Sender> for Single {
    fn from(sender: Sender) -> Self {
        Self {
            sender,
            request: None,
        }
    }
}

impl Single {
    /// Returns whether neither an end nor a GOAWAY has come.
    pub(super) fn is_open(&mut self) -> bool {
        is_open(&mut self.sender)
    }

    /// Waits until the request is over. Returns whether the connection can take another. It can't after
    /// an answer that was broken off, because its peer may end it for such resets.
    pub(super) async fn becomes_free(&mut self) -> bool {
        if let Some(mut request) = self.request.take()
            && request.recv().await.is_some()
        {
            return false;
        }
        self.is_open()
    }

    /// Sends a request whose body is sent as it comes.
    pub(super) async fn send<B>(
        &mut self,
        request: Request<UploadBody<B>>,
    ) -> Result<Response<Arriving>, Failure>
    where
        B: RequestBody,
    {
        let (head, body) = request.into_parts();
        let head = head_of(head, body.size_hint().exact());
        let sent = self.sender.send_request(head, body.is_end_stream());
        let (answer, mut stream) = sent.map_err(Failure::Unsent)?;
        let (busy, request) = mpsc::channel(1);
        self.request = Some(request);
        let mut upload = JoinSet::new();
        if !body.is_end_stream() {
            let busy = busy.clone();
            upload.spawn(async move {
                // The body's source and the answer have the reason of a failure.
                let _ = send_body(&mut stream, body, None, |_| ()).await;
                drop(busy);
            });
        }
        let response = answer.await?;
        Ok(body_of(response, Some(Exchange::new(busy, upload))))
    }
}

/// Returns the answer to a request over HTTP/2.
pub(super) fn body_of(
    response: Response<h2::RecvStream>,
    exchange: Option<Exchange>,
) -> Response<Arriving> {
    let (head, stream) = response.into_parts();
    let body = Inflow::new(stream, &head.headers);
    let body = Arriving {
        body: Wire::Http2(body),
        exchange,
    };
    Response::from_parts(head, body)
}

/// Returns a request's head as HTTP/2 has it. The length is set where a body has one, and where a
/// method is expected to have a body (RFC 9110 §8.6).
fn head_of(mut head: Parts, length: Option<u64>) -> Request<()> {
    head.version = http::Version::HTTP_2;
    remove_connection_fields(&mut head.headers);
    let is_expected = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    if let Some(length) = length.filter(|&length| length > 0 || is_expected) {
        let length = || HeaderValue::from(length);
        head.headers.entry(CONTENT_LENGTH).or_insert_with(length);
    }
    Request::from_parts(head, ())
}
