//! Requests and answers over HTTP/1.1, with hyper.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use common::lock::lock;
use http::{Request, Response, StatusCode, header::EXPECT};
use http_body::{Body as _, Frame, SizeHint};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1::{self, UpgradeableConnection},
    service::HttpService,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    answer::Answer,
    error::Error,
    exchange::Serving,
    last,
    observed::Observed,
    request::RequestInFlight,
    unread,
    upgrade::{self, Upgrade},
};
use crate::{
    body::{BoxError, Wire},
    handler::Handler,
    limits::MAX_HEADER_BYTES,
    websocket::{self, WebSocket},
};

/// Returns the HTTP/1.1 settings of every connection, also of those that are not sockets.
#[must_use]
pub fn http1() -> http1::Builder {
    let mut http1 = http1::Builder::new();
    http1
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(MAX_HEADER_BYTES as usize);
    http1
}

/// A connection that speaks HTTP/1.1, and the tunnel that it may become.
pub(super) struct Http1<I, S: HttpService<Incoming>, H> {
    http: Pin<Box<UpgradeableConnection<TokioIo<Observed<I>>, S>>>,
    serving: Arc<Serving<H>>,
    tunnel: Option<Tunnelling>,
}

type Tunnelling = Pin<Box<dyn Future<Output = Result<(), upgrade::Error>> + Send>>;

impl<I, S, H> Http1<I, S, H>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: HttpService<Incoming, ResBody = Tracked, Error = Infallible>,
{
    /// Serves HTTP/1.1 on a connection.
    pub(super) fn new(io: Observed<I>, service: S, serving: Arc<Serving<H>>) -> Self {
        let connection = http1().serve_connection(TokioIo::new(io), service);
        Self {
            http: Box::pin(connection.with_upgrades()),
            serving,
            tunnel: None,
        }
    }

    /// Starts to drain. A tunnel is ended by its own time.
    pub(super) fn drain(&mut self) {
        self.http.as_mut().graceful_shutdown();
    }
}

impl<I, S, H> Future for Http1<I, S, H>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: HttpService<Incoming, ResBody = Tracked, Error = Infallible>,
{
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            if let Some(tunnel) = &mut self.tunnel {
                return tunnel.as_mut().poll(cx).map_err(Into::into);
            }
            ready!(self.http.as_mut().poll(cx))?;
            let Some(tunnel) = lock(&self.serving.tunnel).take() else {
                return Poll::Ready(Ok(()));
            };
            self.tunnel = Some(Box::pin(tunnel.run()));
        }
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Tracked>, Infallible>> + Send>>;

/// Answers one request.
///
/// The future is boxed because hyper keeps memory for it in each idle connection. With the box 10,000
/// idle connections take 286 MiB instead of 340 (`scripts/bench.sh --rows idle`).
pub(super) fn exchange<H: Handler>(
    serving: &Arc<Serving<H>>,
    request: Request<Incoming>,
) -> Answering {
    let in_flight = RequestInFlight::begin(&serving.activity);
    let serving = Arc::clone(serving);
    Box::pin(async move {
        let has_body = !request.body().is_end_stream();
        let expects = has_body && request.headers().contains_key(EXPECT);
        let (request, upgrade) = upgradable(request);
        let may_change = upgrade.is_some();
        let mut response = serving.answer(request, &in_flight).await;
        let timeout = serving.limits.stream_idle_timeout;
        if let Some(upgrade) = upgrade {
            let mut tunnel = lock(&serving.tunnel);
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                let (head, body) = response.into_parts();
                *tunnel = Some(upgrade.accepted(Answer::new(body, in_flight, timeout)));
                return Ok(Response::from_parts(head, Tracked(None)));
            }
            *tunnel = Some(upgrade.refused());
        }
        // A body that nobody asked for may never come, or may be read as the next request. The rest of a
        // body that the handler has or has left may be too long to read. In both cases the connection
        // ends.
        let is_unasked = expects && !in_flight.wants_body();
        let is_long = in_flight.body_left() > unread::MAX_BYTES;
        let ends = match in_flight.take_rest() {
            Some(rest) if !is_unasked => !rest.settles().await,
            _ => is_unasked || is_long,
        };
        last::announce(&mut response, ends || may_change || in_flight.is_last());
        Ok(response.map(|body| Tracked::new(Answer::new(body, in_flight, timeout))))
    })
}

/// Returns the request as the handler gets it, and its upgrade if it asks for one. Only one to a WebSocket
/// can be accepted.
fn upgradable(mut request: Request<Incoming>) -> (Request<Wire>, Option<Upgrade>) {
    if !last::may_change_protocol(&request) {
        return (request.map(Wire::Http1), None);
    }
    let is_websocket = websocket::is_upgrade(&request);
    let (upgrade, body) = Upgrade::of(&mut request);
    if !is_websocket {
        return (request.map(Wire::Http1), Some(upgrade));
    }
    request.extensions_mut().insert(WebSocket);
    (request.map(|_| Wire::Upgraded(body)), Some(upgrade))
}

/// The error of an answer that makes room for a request of another source.
#[derive(Debug, thiserror::Error)]
#[error("evicted for another source's request")]
struct Evicted;

/// The body of an answer, which ends its request in flight when it is dropped. It is empty before a
/// tunnel, which holds the request instead.
pub(super) struct Tracked(Option<Answer>);

impl Tracked {
    fn new(answer: Answer) -> Self {
        if answer.is_streamed() {
            answer.in_flight().streams_answer();
        }
        Self(Some(answer))
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        if let Some(answer) = &self.0 {
            answer.in_flight().end();
        }
    }
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(answer) = &mut self.0 else {
            return Poll::Ready(None);
        };
        if answer.is_streamed() && answer.in_flight().poll_evicted(cx).is_ready() {
            return Poll::Ready(Some(Err(Evicted.into())));
        }
        Pin::new(answer).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Answer::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.0.as_ref().map(Answer::size_hint);
        hint.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}
