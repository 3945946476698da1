//! A connection to an endpoint: HTTP/2, a lane for many requests at once, or HTTP/1.1, for one.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
    rt::Executor,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::client::TlsStream;

use super::{RequestBody, endpoint::Place, sent::Sent};

/// Idle connections are dropped sooner than a server of ours would close them (75 s), so that a
/// request is not sent into a connection that is just closing.
const IDLE: Duration = Duration::from_secs(60);

/// How long a verified connection takes new requests: shorter than any SVID's life in practice, so
/// that the target's own may not expire long before it is looked at again.
const LIFE: Duration = Duration::from_secs(5 * 60);

/// HTTP/2 flow-control windows, in bytes. A body that its caller does not read holds back at most
/// its stream's window; the connection's is as large as can be, so that a few such bodies don't
/// hold back all other callers on the same connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = i32::MAX.cast_unsigned();

/// Bytes of a request's body that one HTTP/2 stream holds for a target that is slower than its caller.
/// They are written in one go, and everybody else of the core waits meanwhile.
const STREAM_SEND_BUFFER: usize = 64 * 1024;

/// How often a quiet HTTP/2 connection is asked whether the target is still there, and how long the
/// answer may take: one that died without a word would take all requests until it is left.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that is there for one request.
pub(super) struct Connection<B> {
    pub(super) endpoint: u64,
    pub(super) place: Arc<Place>,
    pub(super) in_flight: InFlight,
    speaks: Speaks<B>,
}

enum Speaks<B> {
    Http1(Idle<B>),
    Http2(Arc<Lane<B>>),
}

/// A connection that was just opened.
pub(super) enum Opened<B> {
    Http1(http1::SendRequest<B>),
    Http2(http2::SendRequest<B>),
}

/// An HTTP/2 connection.
pub(super) struct Lane<B> {
    pub(super) number: u64,
    pub(super) load: Arc<Load>,
    opened: Instant,
    state: Mutex<LaneState<B>>,
}

struct LaneState<B> {
    sender: http2::SendRequest<B>,
    used: Instant,
}

/// An HTTP/1.1 connection without a request.
pub(super) struct Idle<B> {
    pub(super) number: u64,
    opened: Instant,
    since: Instant,
    sender: http1::SendRequest<B>,
}

/// What there is to do on a connection, or on all of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Load {
    requests: AtomicUsize,
    answers: AtomicU64,
    /// The endpoint's, if this is a lane's.
    whole: Option<Arc<Self>>,
}

/// A request, until all of its answer has come.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Load>);

/// Runs what HTTP/2 has to do for a request, in a box: it is large, and would be moved about a dozen
/// times until it runs.
#[derive(Clone, Debug)]
struct Boxing;

impl<F> Executor<F> for Boxing
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, work: F) {
        tokio::spawn(Box::pin(work));
    }
}

/// HTTP on a connection that was just verified, as ALPN chose.
pub(super) async fn handshake<B: RequestBody>(
    tls: TlsStream<TcpStream>,
) -> hyper::Result<Opened<B>> {
    let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    // Behind a pointer: the HTTP/2 client moves a value with room for a whole connection for each
    // request, and a TLS connection is some kilobytes.
    let io = TokioIo::new(Box::new(tls));
    if !is_http2 {
        let (mut sender, connection) = http1::handshake(io).await?;
        tokio::spawn(connection);
        // Until its task has run it looks as if it had a request.
        sender.ready().await?;
        return Ok(Opened::Http1(sender));
    }
    let (sender, connection) = http2::Builder::new(Boxing)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(STREAM_SEND_BUFFER)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        // An answer to a request that is given up may be on its way: that is nobody's fault.
        .max_local_error_reset_streams(None)
        .handshake(io)
        .await?;
    tokio::spawn(connection);
    Ok(Opened::Http2(sender))
}

impl<B: RequestBody> Connection<B> {
    pub(super) fn over_lane(endpoint: u64, place: &Arc<Place>, lane: &Arc<Lane<B>>) -> Self {
        Self {
            endpoint,
            place: Arc::clone(place),
            in_flight: InFlight::on(&lane.load),
            speaks: Speaks::Http2(Arc::clone(lane)),
        }
    }

    pub(super) fn over_idle(
        endpoint: u64,
        place: &Arc<Place>,
        idle: Idle<B>,
        load: &Arc<Load>,
    ) -> Self {
        Self {
            endpoint,
            place: Arc::clone(place),
            in_flight: InFlight::on(load),
            speaks: Speaks::Http1(idle),
        }
    }

    pub(super) fn is_http2(&self) -> bool {
        matches!(self.speaks, Speaks::Http2(_))
    }

    pub(super) fn number(&self) -> u64 {
        match &self.speaks {
            Speaks::Http1(idle) => idle.number,
            Speaks::Http2(lane) => lane.number,
        }
    }

    /// Sends a request in the form that the connection speaks.
    pub(super) async fn send(
        &mut self,
        request: Request<B>,
    ) -> Result<Response<Incoming>, TrySendError<Request<B>>> {
        match &mut self.speaks {
            Speaks::Http1(idle) => idle.sender.try_send_request(request).await,
            Speaks::Http2(lane) => {
                let answer = lane.lock().sender.try_send_request(request);
                Sent::new(answer).await
            }
        }
    }

    /// What its request still has to do with it, and what can go back to the endpoint: of HTTP/2
    /// nothing, it is there all the time.
    pub(super) fn into_parts(self) -> (InFlight, Option<Idle<B>>) {
        let idle = match self.speaks {
            Speaks::Http1(idle) => Some(idle),
            Speaks::Http2(_) => None,
        };
        (self.in_flight, idle)
    }
}

impl<B: RequestBody> Lane<B> {
    pub(super) fn new(number: u64, sender: http2::SendRequest<B>, whole: &Arc<Load>) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            number,
            load: Arc::new(Load {
                whole: Some(Arc::clone(whole)),
                ..Load::default()
            }),
            opened: now,
            state: Mutex::new(LaneState { sender, used: now }),
        })
    }

    /// Whether it can take a request; it is taken to be used if so.
    pub(super) fn is_to_be_used(&self, now: Instant) -> bool {
        let mut state = self.lock();
        state.used = now;
        now - self.opened < LIFE && !state.sender.is_closed()
    }

    /// Whether it is worth keeping.
    pub(super) fn is_kept(&self, now: Instant) -> bool {
        let state = self.lock();
        let is_quiet = self.load.requests() == 0 && now - state.used >= IDLE;
        now - self.opened < LIFE && !state.sender.is_closed() && !is_quiet
    }

    fn lock(&self) -> MutexGuard<'_, LaneState<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: RequestBody> Idle<B> {
    pub(super) fn new(number: u64, sender: http1::SendRequest<B>) -> Self {
        let now = Instant::now();
        Self {
            number,
            opened: now,
            since: now,
            sender,
        }
    }

    /// Whether it can take a request.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        now - self.opened < LIFE && now - self.since < IDLE && self.sender.is_ready()
    }

    /// Returns once it has no request any more; whether it can take another.
    pub(super) async fn becomes_free(&mut self) -> bool {
        let is_free = self.sender.is_ready() || self.sender.ready().await.is_ok();
        self.since = Instant::now();
        is_free
    }
}

impl Load {
    /// Requests whose answers have not come in full.
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }

    /// Answers of the endpoint that have begun so far.
    pub(super) fn answers(&self) -> u64 {
        self.endpoint().answers.load(Relaxed)
    }

    fn endpoint(&self) -> &Self {
        self.whole.as_deref().unwrap_or(self)
    }
}

impl InFlight {
    fn on(load: &Arc<Load>) -> Self {
        for load in [Some(load), load.whole.as_ref()].into_iter().flatten() {
            load.requests.fetch_add(1, Relaxed);
        }
        Self(Arc::clone(load))
    }

    /// The answer has begun.
    pub(super) fn answered(&self) {
        self.0.endpoint().answers.fetch_add(1, Relaxed);
    }

    /// As [`Load::answers`].
    pub(super) fn answers(&self) -> u64 {
        self.0.answers()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        for load in [Some(&self.0), self.0.whole.as_ref()].into_iter().flatten() {
            load.requests.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::Limits;

    #[test]
    fn p165_idle_connections_are_dropped_before_a_server_of_ours_would() {
        assert!(IDLE < Limits::new(1).idle_timeout);
    }
}
