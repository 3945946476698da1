//! One accepted connection: TLS handshake under a deadline, then the HTTP version that ALPN chose.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::{
    body::Incoming,
    rt::Executor,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use tokio::{
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{debug, error};

use super::{
    Handler, Limits, MAX_HEADER_BYTES, MAX_STREAMS,
    activity::{Activity, Overdue, Reader},
    admission,
    exchange::{Fault, Received, Tracked, last, over_bounds, overloaded, without_body},
    observed::Observed,
};
use crate::{
    body::{self, Body},
    peer::Peer,
    shutdown::Shutdown,
};

pub(super) struct Connection {
    pub(super) peer: Peer,
    pub(super) limits: Limits,
    pub(super) shutdown: Shutdown,
}

/// Why a connection ended early; routine, and logged at debug.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("TLS handshake not complete in time")]
    HandshakeTimeout,
    #[error("TLS handshake given up for a younger one")]
    Shed,
    #[error("stopping")]
    Stopping,
    #[error("TLS handshake: {0}")]
    Handshake(std::io::Error),
    #[error("{0}")]
    Overdue(#[from] Overdue),
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

/// HTTP/2 resets before GOAWAY (RFC 9113 §10.5): of streams that no handler has seen yet (rapid
/// reset, CVE-2023-44487), and resets that a peer's errors made us send (CVE-2025-8671).
const MAX_PENDING_RESETS: usize = 20;
const MAX_ERROR_RESETS: usize = 200;

/// Bytes of a response that one HTTP/2 stream holds for a reader that is slower than its source.
const STREAM_SEND_BUFFER: usize = 64 * 1024;

/// HTTP/2 flow-control windows, in bytes: what a caller may send before a handler reads. A stream's
/// is the smaller, so that a few bodies that nobody reads hold back no others on their connection.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// What a connection without a request in flight has left once a stop was asked for: to end its TLS
/// handshake, to send the request that it has begun, to answer GOAWAY. One that says nothing must
/// not delay the stop.
const LAST_CALL: Duration = Duration::from_secs(1);

/// How often a quiet HTTP/2 connection is asked whether its peer is still there, and how long the
/// answer may take.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

impl Connection {
    pub(super) async fn serve(
        self,
        tcp: TcpStream,
        acceptor: TlsAcceptor,
        handshake: admission::Handshake,
        handler: impl Handler,
    ) -> Result<(), Error> {
        let (tls, _place) = self.open(tcp, acceptor, handshake).await?;
        let activity = Activity::new(&self.limits.load);
        let service = service_fn({
            let activity = Arc::clone(&activity);
            let (limits, peer) = (self.limits.clone(), self.peer.clone());
            move |request| exchange(request, peer.clone(), &limits, &activity, handler.clone())
        });
        // Chosen by ALPN and never sniffed: sniffing waits without a deadline.
        if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
            let io = TokioIo::new(Observed::http2(tls, Arc::clone(&activity)));
            let connection = http2(&self.limits).serve_connection(io, service);
            return self.drive(connection, &activity, Farewell::GoAway).await;
        }
        let io = TokioIo::new(Observed::http1(tls, Arc::clone(&activity)));
        let connection = http1().serve_connection(io, service);
        self.drive(connection, &activity, Farewell::Answer).await
    }

    /// The handshake's place is held until there is one for the connection.
    async fn open(
        &self,
        tcp: TcpStream,
        acceptor: TlsAcceptor,
        mut handshake: admission::Handshake,
    ) -> Result<(TlsStream<TcpStream>, OwnedSemaphorePermit), Error> {
        let opening = async {
            let tls = acceptor.accept(tcp).await.map_err(Error::Handshake)?;
            Ok((tls, self.limits.admission.connection().await))
        };
        tokio::select! {
            opened = timeout(self.limits.handshake_timeout, opening) => {
                opened.unwrap_or(Err(Error::HandshakeTimeout))
            }
            () = handshake.shed() => Err(Error::Shed),
            () = self.stopping() => Err(Error::Stopping),
        }
    }

    /// A stop was asked for, and the time for handshakes in flight is over.
    async fn stopping(&self) {
        self.shutdown.clone().requested().await;
        sleep(self.last_call()).await;
    }

    /// Within the time that requests in flight have: an idle connection is closed, not cut off.
    fn last_call(&self) -> Duration {
        LAST_CALL.min(self.limits.drain_timeout / 2)
    }

    /// Until its end, a deadline, or a stop: then what is in flight may finish.
    async fn drive<C>(
        self,
        connection: C,
        activity: &Activity,
        farewell: Farewell,
    ) -> Result<(), Error>
    where
        C: GracefulConnection<Error = hyper::Error>,
    {
        let mut connection = pin!(connection);
        let overdue = tokio::select! {
            served = connection.as_mut() => return Ok(served?),
            overdue = activity.overdue(&self.limits) => Some(overdue),
            () = self.shutdown.clone().requested() => None,
        };
        if overdue.is_none() && farewell == Farewell::Answer {
            activity.stop();
            tokio::select! {
                served = connection.as_mut() => return Ok(served?),
                overdue = activity.overdue(&self.limits) => return Err(overdue.into()),
                () = activity.without_request_for(self.last_call()) => {}
            }
        }
        connection.as_mut().graceful_shutdown();
        match overdue {
            None => tokio::select! {
                served = connection => Ok(served?),
                overdue = activity.overdue(&self.limits) => Err(overdue.into()),
                () = activity.without_request_for(self.last_call()) => Err(Error::Stopping),
            },
            // There may be a response's last bytes on their way, or a request that just comes.
            Some(Overdue::Idle) => match timeout(self.limits.body_timeout, connection).await {
                Ok(served) => Ok(served?),
                Err(_) => Err(Overdue::Idle.into()),
            },
            Some(overdue) => Err(overdue.into()),
        }
    }
}

/// How a peer learns that a stop was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    /// HTTP/2: at once. A request that crosses it on the way is served (the first GOAWAY refuses
    /// none, the second follows the answer to a PING), or known not to be (RFC 9113 §6.8).
    GoAway,
    /// HTTP/1.1: with its next answer. Closed before it, the connection would fail a request that
    /// is on its way, and nobody knows then whether it was served (RFC 9112 §9.6).
    Answer,
}

/// A request through its bounds to its handler, and its response.
fn exchange<H: Handler>(
    request: Request<Incoming>,
    peer: Peer,
    limits: &Limits,
    activity: &Arc<Activity>,
    handler: H,
) -> Pin<Box<impl Future<Output = Result<Response<Tracked<Body>>, Infallible>> + Send + use<H>>> {
    let (in_flight, version) = (activity.begin(), request.version());
    let bodiless = request.method() == Method::HEAD && version == Version::HTTP_2;
    let reader = Arc::clone(&activity.reader);
    let refused = match in_flight.is_admitted() {
        true => over_bounds(&request, limits),
        false => Some(overloaded(&request)),
    };
    let fault = Fault::default();
    let request = request.map(|body| Received::new(body, limits, fault.clone()));
    // Boxed: it is large, would be moved about a dozen times until it runs, and an HTTP/1.1 connection
    // has a place for it also while it is idle.
    Box::pin(async move {
        let reader = STREAM.try_with(Arc::clone).unwrap_or(reader);
        let response = match refused {
            Some(refused) => refused,
            None => answer(handler, request, &peer).await,
        };
        let mut response = fault.answer(version).unwrap_or(response);
        if in_flight.is_last() {
            last(&mut response, version);
        }
        if bodiless {
            response = without_body(response);
        }
        Ok(response.map(|body| Tracked::new(body, reader, in_flight)))
    })
}

/// A panic is its request's end and nobody else's.
async fn answer<H: Handler>(handler: H, request: Request<Received>, peer: &Peer) -> Response<Body> {
    let answering = AssertUnwindSafe(pin!(handler.handle(request, peer)));
    answering.catch_unwind().await.unwrap_or_else(|_| {
        error!(%peer, "a panic: answering 500 and going on");
        body::status(StatusCode::INTERNAL_SERVER_ERROR)
    })
}

/// HTTP/1.1 as every connection speaks it, for those that are no sockets.
#[must_use]
pub fn http1() -> http1::Builder {
    let mut http1 = http1::Builder::new();
    http1
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(MAX_HEADER_BYTES as usize);
    http1
}

fn http2(limits: &Limits) -> http2::Builder<Streams> {
    let mut http2 = http2::Builder::new(Streams {
        patience: limits.body_timeout,
    });
    http2
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .max_send_buf_size(STREAM_SEND_BUFFER)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    http2
}

tokio::task_local! {
    /// The reader of the HTTP/2 stream that this task serves.
    static STREAM: Arc<Reader>;
}

/// Runs HTTP/2 streams, and resets one whose response nobody reads: dropped, it is reset. The
/// others on its connection go on.
#[derive(Clone, Debug)]
struct Streams {
    patience: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let (reader, patience) = (Reader::new(), self.patience);
        tokio::spawn(async move {
            tokio::select! {
                () = STREAM.scope(Arc::clone(&reader), stream) => {}
                () = reader.stalled(patience) => debug!("stream reset: response not read in time"),
            }
        });
    }
}
