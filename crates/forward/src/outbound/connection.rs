//! A connection to an endpoint: a lane, which is an HTTP/2 connection that many requests share, or a
//! connection that one request has for itself, HTTP/1.1 mostly.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use common::lock::lock;
use http::{Request, Response};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serve::http2::RoundTrip;
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::client::TlsStream;

use super::{
    RequestBody,
    answer::Arriving,
    endpoint::Place,
    http2::{self, Sender},
    in_flight::{InFlight, Load},
    prepared::Need,
    resets::Resets,
    retry::Failure,
    sent::Sent,
    upload::Outgoing,
};

/// Idle connections are dropped sooner than a server of ours would close them (75 s), so that a
/// request is not sent into a connection that is just closing.
const IDLE: Duration = Duration::from_secs(60);

/// How long a verified connection takes new requests: shorter than any SVID's life in practice, so
/// that the target's own may not expire long before it is looked at again.
const LIFE: Duration = Duration::from_secs(5 * 60);

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
    resets: Resets,
}

/// A connection without a request, for one at a time.
pub(super) struct Idle<B> {
    pub(super) number: u64,
    opened: Instant,
    since: Instant,
    sender: Own<B>,
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
    ) -> Result<Response<Arriving>, Failure> {
        match &mut self.speaks {
            Speaks::Own(idle) => match &mut idle.sender {
                Own::Http1(sender) => {
                    let sent = sender.try_send_request(request).await;
                    Ok(sent?.map(Into::into))
                }
                Own::Http2(single) => single.send(request).await,
            },
            Speaks::Shared(lane) => {
                let sender = lane.lock().sender.clone();
                let answer = http2::send_whole(sender, request)?;
                Sent::new(answer, lane, &self.in_flight).await
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
            load: Load::of_lane(whole),
            opened: now,
            round_trip,
            state: Mutex::new(LaneState {
                sender,
                used: now,
                resets: Resets::new(now),
            }),
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

    /// Returns whether neither an end nor a GOAWAY has come.
    pub(super) fn is_open(&self) -> bool {
        self.lock().is_open()
    }

    /// Takes one of the resets that the connection may have, if there is one left.
    pub(super) fn may_reset(&self) -> bool {
        self.lock().resets.take(Instant::now())
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
        self.load.has_room_for(body_bytes)
    }

    fn lock(&self) -> MutexGuard<'_, LaneState> {
        lock(&self.state)
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

#[cfg(test)]
mod tests {
    use super::*;
    use serve::Limits;

    #[test]
    fn idle_connections_are_dropped_before_a_server_of_ours_would_p165() {
        assert!(IDLE < Limits::new(1).idle_timeout);
    }
}
