//! Accept → TLS → HTTP → drain: what is the same for everything that listens.
//!
//! One [`serve`] runs on each core, on a listener of its own. What is for the whole process is shared
//! between them by [`Limits`].
//!
//! - `accept`, `balance`, `admission`: connections out of the kernel's queue, to a core, in bounds
//! - `connection`: TLS, then `http1` or `http2` until its end · `observed`: its bytes · `flood`: its
//!   frames · `activity`: its deadlines · `windows`: how much may come before it is read
//! - `exchange`: a request and its answer · `received`: its body · `flight`, `limit`: where it is
//!   counted

mod accept;
mod activity;
mod admission;
mod balance;
mod connection;
mod date;
mod exchange;
mod flight;
mod flood;
mod http1;
mod http2;
mod limit;
mod observed;
mod received;
mod windows;

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use tokio::{task::JoinSet, time::timeout};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tracing::{debug, warn};

use self::balance::Accepted;
pub use self::{
    admission::{Admission, Bounds},
    balance::Balance,
    http1::http1,
    limit::InFlightLimit,
    received::{ReceiveError, Received},
    windows::WideWindows,
};
use crate::{
    body::Body,
    listen::Listener,
    peer::{Peer, network},
    shutdown::Shutdown,
};

/// What answers requests. One value serves one core.
pub trait Handler: Clone + Send + Sync + Unpin + 'static {
    /// Answers one request that came from `peer`.
    fn handle(
        &self,
        request: Request<Received>,
        peer: &Peer,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// The deadlines and bounds of a listener.
#[derive(Clone, Debug)]
pub struct Limits {
    /// For the TLS handshake, from accept.
    pub handshake_timeout: Duration,
    /// For a request's header, from its first byte; for the first request from the handshake.
    pub header_timeout: Duration,
    /// How long a connection without a request is kept.
    pub idle_timeout: Duration,
    /// How long a body may stand still while it is the caller that it waits for: a request's, for
    /// each [`MIN_PROGRESS_BYTES`] of it; a response's, until the next part of it was taken.
    pub body_timeout: Duration,
    /// The longest request body, in bytes; any if absent.
    pub max_body: Option<u64>,
    /// How long requests in flight may go on after a stop was asked for.
    pub drain_timeout: Duration,
    /// How many connections at once; shared by the cores of the process.
    pub admission: Admission,
    /// How many requests at once; shared by the cores of the process.
    pub in_flight: InFlightLimit,
    /// The HTTP/2 connections that have wide windows; shared by the cores of the process.
    pub wide_windows: WideWindows,
    /// The cores that connections are spread over; shared by them.
    pub balance: Balance,
}

/// The longest request head that is read, in bytes (both HTTP versions).
pub const MAX_HEADER_BYTES: u32 = 32 * 1024;

/// The most header fields of a request.
pub const MAX_HEADERS: usize = 100;

/// The longest request target, in bytes; RFC 9112 §3 asks for 8000 at least.
pub const MAX_TARGET_BYTES: usize = 8 * 1024;

/// What a request's body must bring in each [`Limits::body_timeout`], or its end: a byte at a time is
/// no progress.
pub const MIN_PROGRESS_BYTES: u64 = 1024;

/// Streams that one HTTP/2 connection may have open at once.
pub const MAX_STREAMS: u32 = 200;

impl Limits {
    /// At most `connections` at once, from any sources, each with one request on average; with the
    /// default deadlines.
    #[must_use]
    pub fn new(connections: usize) -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            max_body: None,
            drain_timeout: Duration::from_secs(30),
            admission: Admission::new(Bounds {
                connections,
                per_source: connections,
                handshakes: connections,
            }),
            in_flight: InFlightLimit::new(connections),
            wide_windows: WideWindows::default(),
            balance: Balance::default(),
        }
    }
}

/// Serves `listener` until `shutdown`, then lets what is in flight finish within the drain timeout.
pub async fn serve(
    listener: impl Into<Listener>,
    tls: Arc<ServerConfig>,
    handler: impl Handler,
    limits: Limits,
    shutdown: Shutdown,
) {
    let listener = listener.into();
    let mut stop = std::pin::pin!(shutdown.clone().requested());
    let admission = limits.admission.clone();
    let mut seat = limits.balance.join();
    let mut core = Core {
        acceptor: TlsAcceptor::from(tls),
        handler,
        limits,
        shutdown,
        connections: JoinSet::new(),
    };
    'accepting: loop {
        // Not begun anew for each connection that ends: that would begin its back-off anew.
        let mut accepting = std::pin::pin!(accept::accept(&listener.socket, &admission));
        let accepted = loop {
            tokio::select! {
                accepted = &mut accepting => break accepted,
                given = seat.given() => core.open(given),
                Some(_) = core.connections.join_next() => {}
                () = &mut stop => break 'accepting,
            }
        };
        if let Some(accepted) = seat.place(accepted) {
            core.open(accepted);
        }
    }
    for accepted in accept::close(listener) {
        core.open(seat.keep(accepted));
    }
    for given in seat.leave() {
        core.open(given);
    }
    core.drain().await;
}

/// What one core serves with, and what it serves.
struct Core<H> {
    acceptor: TlsAcceptor,
    handler: H,
    limits: Limits,
    shutdown: Shutdown,
    connections: JoinSet<()>,
}

impl<H: Handler> Core<H> {
    /// Begins to serve a connection, if there is a place for it.
    fn open(&mut self, Accepted { tcp, peer, counted }: Accepted) {
        let source = network(peer.ip());
        let Some((place, handshake)) = self.limits.admission.enter(source) else {
            return;
        };
        let connection = connection::Connection {
            peer: Peer::from(peer),
            source,
            limits: self.limits.clone(),
            shutdown: self.shutdown.clone(),
        };
        let (acceptor, handler) = (self.acceptor.clone(), self.handler.clone());
        // Boxed: it is large, and would be moved about a dozen times until it runs.
        self.connections.spawn(Box::pin(async move {
            let _places = (place, counted);
            if let Err(error) = connection.serve(tcp, acceptor, handshake, handler).await {
                debug!(%peer, %error, "connection ended");
            }
        }));
    }

    async fn drain(mut self) {
        let drained = async { while self.connections.join_next().await.is_some() {} };
        if timeout(self.limits.drain_timeout, drained).await.is_err() {
            warn!(
                connections = self.connections.len(),
                "drain timeout passed: closing what is still in flight"
            );
        }
    }
}
