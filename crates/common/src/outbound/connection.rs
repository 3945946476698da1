//! A connection to an endpoint: a lane, which is an HTTP/2 connection that many requests share, or a
//! connection that one request has for itself, HTTP/1.1 mostly.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Request, Response};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::client::TlsStream;

use super::{
    RequestBody,
    answer::Wire,
    endpoint::Place,
    http2::{self, Sender},
    prepared::Need,
    retry::Failure,
    sent::Sent,
    upload::Outgoing,
};
use crate::{fair::FairQueue, http2::RoundTrip};

/// Idle connections are dropped sooner than a server of ours would close them (75 s), so that a
/// request is not sent into a connection that is just closing.
const IDLE: Duration = Duration::from_secs(60);

/// How long a verified connection takes new requests: shorter than any SVID's life in practice, so
/// that the target's own may not expire long before it is looked at again.
const LIFE: Duration = Duration::from_secs(5 * 60);

/// Bytes of bodies that the unanswered requests of a lane have at most, all together. Every peer's
/// window for a connection is 65,535 bytes or more (RFC 9113 §6.9.2), so that bodies which the
/// upstream does not read hold back nobody else's.
const LANE_BODY_BYTES: usize = 32 * 1024;

/// The most header fields of an answer; HTTP/1.1 needs to know before it reads them.
pub(super) const MAX_FIELDS: usize = 256;

/// A connection that is there for one request.
pub(super) struct Connection<B> {
    pub(super) endpoint: u64,
    pub(super) place: Arc<Place>,
    pub(super) in_flight: InFlight,
    /// It takes another request after this one.
    pub(super) is_to_be_kept: bool,
    speaks: Speaks<B>,
}

enum Speaks<B> {
    Shared(Arc<Lane>),
    Own(Box<Idle<B>>),
}

/// A connection that was just opened.
pub(super) enum Opened<B> {
    /// To be shared.
    Lane(Sender, Arc<RoundTrip>),
    /// For one request at a time.
    Own(Own<B>),
}

/// A connection for one request at a time.
pub(super) enum Own<B> {
    Http1(http1::SendRequest<Outgoing<B>>),
    Http2(http2::Single),
}

/// An HTTP/2 connection that requests share.
pub(super) struct Lane {
    pub(super) number: u64,
    pub(super) load: Arc<Load>,
    opened: Instant,
    round_trip: Arc<RoundTrip>,
    state: Mutex<LaneState>,
}

struct LaneState {
    sender: Sender,
    used: Instant,
}

/// A connection without a request, for one at a time.
pub(super) struct Idle<B> {
    pub(super) number: u64,
    opened: Instant,
    since: Instant,
    sender: Own<B>,
}

/// What there is to do on a connection, or on all of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Load {
    requests: AtomicUsize,
    body_bytes: AtomicUsize,
    answers: AtomicU64,
    /// The endpoint's, if this is a lane's.
    whole: Option<Arc<Self>>,
    /// Requests that wait for room on a connection.
    room: Option<Arc<FairQueue>>,
}

/// A request, until all of its answer has come.
#[derive(Debug)]
pub(super) struct InFlight {
    load: Arc<Load>,
    body_bytes: usize,
}

/// Begins HTTP on a connection that was just verified, as ALPN chose; `is_own` if it is for one
/// request at a time.
pub(super) async fn handshake<B: RequestBody>(
    tls: TlsStream<TcpStream>,
    is_own: bool,
) -> Result<Opened<B>, Failure> {
    let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    if is_http2 {
        let (sender, round_trip) = http2::handshake(tls).await.map_err(Failure::Unsent)?;
        return Ok(match is_own {
            true => Opened::Own(Own::Http2(sender.into())),
            false => Opened::Lane(sender, round_trip),
        });
    }
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(MAX_FIELDS)
        .handshake(TokioIo::new(Box::new(tls)))
        .await?;
    tokio::spawn(connection);
    // Until its task has run it looks as if it had a request.
    sender.ready().await?;
    Ok(Opened::Own(Own::Http1(sender)))
}

impl<B: RequestBody> Connection<B> {
    pub(super) fn over_lane(
        endpoint: u64,
        place: &Arc<Place>,
        lane: &Arc<Lane>,
        need: Need,
    ) -> Self {
        Self {
            endpoint,
            place: Arc::clone(place),
            in_flight: InFlight::on(&lane.load, need.shared_bytes()),
            is_to_be_kept: true,
            speaks: Speaks::Shared(Arc::clone(lane)),
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
            in_flight: InFlight::on(load, 0),
            is_to_be_kept: true,
            speaks: Speaks::Own(Box::new(idle)),
        }
    }

    pub(super) fn is_http2(&self) -> bool {
        match &self.speaks {
            Speaks::Shared(_) => true,
            Speaks::Own(idle) => matches!(idle.sender, Own::Http2(_)),
        }
    }

    pub(super) fn number(&self) -> u64 {
        match &self.speaks {
            Speaks::Own(idle) => idle.number,
            Speaks::Shared(lane) => lane.number,
        }
    }

    /// Sends a request in the form that the connection speaks.
    pub(super) async fn send(
        &mut self,
        request: Request<Outgoing<B>>,
    ) -> Result<Response<Wire>, Failure> {
        match &mut self.speaks {
            Speaks::Own(idle) => match &mut idle.sender {
                Own::Http1(sender) => {
                    let sent = sender.try_send_request(request).await;
                    Ok(sent?.map(Wire::Http1))
                }
                Own::Http2(single) => single.send(request).await,
            },
            Speaks::Shared(lane) => {
                let sender = lane.lock().sender.clone();
                let answer = http2::send_whole(sender, request)?;
                Sent::new(answer, &self.in_flight).await
            }
        }
    }

    /// Splits it into its request's count and, except for a lane, the connection that can go back to
    /// the endpoint.
    pub(super) fn into_parts(self) -> (InFlight, Option<Idle<B>>) {
        let idle = match self.speaks {
            Speaks::Own(idle) => Some(*idle),
            Speaks::Shared(_) => None,
        };
        (self.in_flight, idle)
    }
}

impl Lane {
    pub(super) fn new(
        number: u64,
        sender: Sender,
        round_trip: Arc<RoundTrip>,
        whole: &Arc<Load>,
    ) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            number,
            load: Arc::new(Load {
                whole: Some(Arc::clone(whole)),
                ..Load::default()
            }),
            opened: now,
            round_trip,
            state: Mutex::new(LaneState { sender, used: now }),
        })
    }

    /// Returns whether the connection can take requests, and notes that it is used.
    pub(super) fn is_to_be_used(&self, now: Instant) -> bool {
        let mut state = self.lock();
        state.used = now;
        now - self.opened < LIFE && state.is_open()
    }

    /// The round trip to its peer, once it was measured.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.round_trip.get()
    }

    /// Returns whether it is worth keeping.
    pub(super) fn is_kept(&self, now: Instant) -> bool {
        let mut state = self.lock();
        let is_quiet = self.load.requests() == 0 && now - state.used >= IDLE;
        now - self.opened < LIFE && state.is_open() && !is_quiet
    }

    /// Returns the number of requests that its peer takes at once at present.
    pub(super) fn max_requests(&self) -> usize {
        self.lock().sender.current_max_send_streams()
    }

    /// Returns whether there is room for a body of so many bytes.
    pub(super) fn has_room_for(&self, body_bytes: usize) -> bool {
        body_bytes == 0
            || self
                .load
                .body_bytes
                .load(Relaxed)
                .saturating_add(body_bytes)
                <= LANE_BODY_BYTES
    }

    fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LaneState {
    /// Returns whether neither an end nor a GOAWAY has come.
    fn is_open(&mut self) -> bool {
        http2::is_open(&mut self.sender)
    }
}

impl<B: RequestBody> Idle<B> {
    pub(super) fn new(number: u64, sender: Own<B>) -> Self {
        let now = Instant::now();
        Self {
            number,
            opened: now,
            since: now,
            sender,
        }
    }

    /// Whether it can take a request.
    pub(super) fn is_usable(&mut self, now: Instant) -> bool {
        let is_ready = match &mut self.sender {
            Own::Http1(sender) => sender.is_ready(),
            Own::Http2(single) => single.is_open(),
        };
        now - self.opened < LIFE && now - self.since < IDLE && is_ready
    }

    /// Returns once it has no request any more; whether it can take another.
    pub(super) async fn becomes_free(&mut self) -> bool {
        let is_free = match &mut self.sender {
            Own::Http1(sender) => sender.is_ready() || sender.ready().await.is_ok(),
            Own::Http2(single) => single.becomes_free().await,
        };
        self.since = Instant::now();
        is_free
    }
}

impl Load {
    /// An endpoint's, whose requests make room for those in `room`.
    pub(super) fn of_endpoint(room: &Arc<FairQueue>) -> Arc<Self> {
        Arc::new(Self {
            room: Some(Arc::clone(room)),
            ..Self::default()
        })
    }

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
    fn on(load: &Arc<Load>, body_bytes: usize) -> Self {
        for load in [Some(load), load.whole.as_ref()].into_iter().flatten() {
            load.requests.fetch_add(1, Relaxed);
        }
        load.body_bytes.fetch_add(body_bytes, Relaxed);
        Self {
            load: Arc::clone(load),
            body_bytes,
        }
    }

    /// The answer has begun.
    pub(super) fn answered(&self) {
        self.load.endpoint().answers.fetch_add(1, Relaxed);
    }

    /// As [`Load::answers`].
    pub(super) fn answers(&self) -> u64 {
        self.load.answers()
    }
}

/// Counts once more: the request is over when all are dropped.
impl Clone for InFlight {
    fn clone(&self) -> Self {
        Self::on(&self.load, self.body_bytes)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let load = &self.load;
        for load in [Some(load), load.whole.as_ref()].into_iter().flatten() {
            load.requests.fetch_sub(1, Relaxed);
        }
        load.body_bytes.fetch_sub(self.body_bytes, Relaxed);
        if let Some(room) = &load.endpoint().room {
            room.call_next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::Limits;

    #[test]
    fn idle_connections_are_dropped_before_a_server_of_ours_would_p165() {
        assert!(IDLE < Limits::new(1).idle_timeout);
    }
}
