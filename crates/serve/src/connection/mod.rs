//! One accepted connection, from the TLS handshake to its end.

mod activity;
mod answer;
mod date;
mod ending;
mod error;
mod exchange;
mod flood;
pub(crate) mod http1;
mod http2;
pub mod last;
mod observed;
mod permit;
mod plaintext;
pub(crate) mod received;
mod refused;
mod request;
mod unread;
mod upgrade;
pub(crate) mod windows;

use std::{
    convert::Infallible,
    future::poll_fn,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use common::{certificate, tls::workload_id};
use hyper::{
    body::{Bytes, Incoming},
    service::{HttpService, service_fn},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::OwnedSemaphorePermit,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, rustls::pki_types::CertificateDer, server::TlsStream};

pub(crate) use self::error::Error;
use self::{
    activity::{Activity, Closing},
    exchange::Serving,
    http1::{Http1, Tracked},
    observed::Observed,
    plaintext::Beginning,
    windows::Windows,
};
use crate::{
    accept::HandshakePermit,
    access::Noted,
    counts,
    handler::Handler,
    http2::dead,
    listen::Security,
    peer::{Peer, PeerIdentity},
    shared::Shared,
    shutdown::Shutdown,
    stream::Stream,
    tenure::Tenure,
};

/// The I/O that HTTP is served on.
trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<I: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for I {}

/// A connection on which HTTP can begin.
enum Opened {
    Tls(Box<TlsStream<Stream>>),
    /// A connection without TLS, and its beginning.
    Plaintext(Stream, Beginning),
}

pub(crate) struct Connection {
    pub(crate) peer: Peer,
    /// The source of the connection, which the limits count.
    pub(crate) source: IpAddr,
    pub(crate) shared: Shared,
    pub(crate) shutdown: Shutdown,
    /// The end of the listener's identity under which the connection was opened, or the stop of the process.
    pub(crate) identity_end: Shutdown,
}

impl Connection {
    /// Serves the connection until it ends.
    pub(crate) async fn serve(
        mut self,
        stream: Stream,
        security: Security,
        handshake: HandshakePermit,
        handler: impl Handler,
    ) -> Result<(), Error> {
        // Subscribes to a change of the trust bundles before the handshake, so that none is missed.
        let trust_end = self.shared.trust.as_ref().map(Tenure::end);
        // The permit is held until the connection ends.
        let (opened, _connection_permit) = self.open(stream, security, handshake).await?;
        match opened {
            Opened::Tls(tls) => {
                let session = tls.get_ref().1;
                let is_http2 = session.alpn_protocol() == Some(b"h2");
                let version = counts::Handshake::of(session.protocol_version());
                if let Some(chain) = session.peer_certificates() {
                    let identity = identity(chain, trust_end).ok_or(Error::NoIdentity)?;
                    self.peer = self.peer.identified(identity);
                }
                let begun = Beginning {
                    is_http2,
                    bytes: Bytes::new(),
                };
                self.count(version, is_http2);
                self.http(*tls, begun, handler).await
            }
            Opened::Plaintext(io, begun) => {
                self.count(counts::Handshake::Plaintext, begun.is_http2);
                self.http(io, begun, handler).await
            }
        }
    }

    /// Counts a connection on which HTTP begins.
    fn count(&self, version: counts::Handshake, is_http2: bool) {
        let counts = &self.shared.counts;
        counts.handshakes.add(version, 1);
        counts.protocols.add(counts::Protocol::of(is_http2), 1);
    }

    async fn http(self, io: impl Io, begun: Beginning, handler: impl Handler) -> Result<(), Error> {
        let (limit, counts) = (self.shared.in_flight.of(self.source), &self.shared.counts);
        let activity = Activity::new(limit, self.max_age(), Arc::clone(counts));
        let serving = Arc::new(Serving {
            handler,
            peer: self.peer.clone(),
            limits: self.shared.limits.clone(),
            quotas: Arc::clone(&self.shared.quotas),
            noted: Noted::new(self.shared.access, self.shared.spans.clone()),
            activity: Arc::clone(&activity),
            tunnel: Mutex::default(),
        });
        // Each future is boxed, because an idle connection would otherwise keep memory for both versions.
        let is_http2 = begun.is_http2;
        let io = Observed::new(io, begun, Arc::clone(&activity));
        if is_http2 {
            Box::pin(self.http2(io, &activity, serving)).await
        } else {
            Box::pin(self.http1(io, &activity, serving)).await
        }
    }

    /// Waits for the TLS handshake, or for the first bytes without TLS, and then for a permit to serve the
    /// connection, under one deadline.
    async fn open(
        &self,
        mut stream: Stream,
        security: Security,
        handshake: HandshakePermit,
    ) -> Result<(Opened, OwnedSemaphorePermit), Error> {
        let opening = async {
            let opened = match security {
                Security::Tls(config) => {
                    let accepted = TlsAcceptor::from(config).accept(stream).await;
                    Opened::Tls(Box::new(accepted.map_err(Error::Handshake)?))
                }
                Security::Plaintext => {
                    let begun = plaintext::detect(&mut stream).await;
                    Opened::Plaintext(stream, begun.map_err(Error::Plaintext)?)
                }
            };
            Ok((opened, self.shared.admission.connection().await))
        };
        tokio::select! {
            opened = timeout(self.shared.limits.handshake_timeout, opening) => {
                opened.unwrap_or(Err(Error::HandshakeTimeout))
            }
            () = handshake.evicted() => Err(Error::HandshakeEvicted),
            () = self.handshakes_end() => Err(Error::Stopping),
        }
    }

    /// Serves HTTP/1.1.
    ///
    /// A request that is on its way when a stop is requested is answered, and its answer announces the end
    /// of the connection. If the connection were closed instead, the caller could not know whether the
    /// request was served (RFC 9112 §9.6).
    async fn http1<H: Handler>(
        self,
        io: Observed<impl Io>,
        activity: &Arc<Activity>,
        serving: Arc<Serving<H>>,
    ) -> Result<(), Error> {
        let service = {
            let serving = Arc::clone(&serving);
            service_fn(move |request| http1::exchange(&serving, request))
        };
        let mut connection = Http1::new(io, service, serving);
        let closing = tokio::select! {
            served = &mut connection => return served,
            closing = self.closing(activity) => closing,
            () = evicted(activity) => return Err(Error::Evicted),
        };
        match closing {
            Closing::Overdue(overdue) => self.end_overdue(&mut connection, overdue).await,
            Closing::Drain => {
                activity.start_drain();
                let drained = self.drain_http1(&mut connection, activity);
                self.within_drain_timeout(drained).await
            }
        }
    }

    /// Drains a connection over HTTP/1.1. A request that arrives within the grace is served too. After it, hyper
    /// closes the connection once that is idle.
    async fn drain_http1(
        &self,
        connection: &mut impl HttpConnection,
        activity: &Activity,
    ) -> Result<(), Error> {
        tokio::select! {
            served = &mut *connection => return served,
            overdue = activity.overdue(&self.shared.limits) => return Err(overdue.into()),
            () = evicted(activity) => return Err(Error::Evicted),
            () = activity.without_request_for(self.drain_grace()) => {}
        }
        self.finish(connection, activity).await
    }

    /// Serves HTTP/2.
    ///
    /// GOAWAY announces a stop at once. A request that crosses it is served, because the first GOAWAY
    /// refuses no stream and the second follows the answer to a PING. The caller of any later request
    /// knows that it was not served (RFC 9113 §6.8).
    async fn http2<H: Handler>(
        self,
        io: Observed<impl Io>,
        activity: &Arc<Activity>,
        serving: Arc<Serving<H>>,
    ) -> Result<(), Error> {
        let heard = io.heard();
        let mut h2 = tokio::select! {
            h2 = http2::handshake(io) => h2?,
            overdue = activity.overdue(&self.shared.limits) => return Err(overdue.into()),
            () = self.handshakes_end() => return Err(Error::Stopping),
        };
        let ping = h2.ping_pong();
        let peer_dies = dead(ping, heard, http2::PING_EVERY, http2::PING_TIMEOUT);
        let mut connection = Http2 {
            h2,
            windows: self.shared.wide_windows.of(self.source),
            serving,
        };
        tokio::select! {
            served = self.serve_http2(&mut connection, activity) => served,
            () = peer_dies => Err(Error::Dead),
        }
    }

    /// Serves requests over HTTP/2 until the connection ends. Each answer waits for its own eviction, which
    /// resets its stream and not the connection.
    async fn serve_http2(
        &self,
        connection: &mut impl HttpConnection,
        activity: &Activity,
    ) -> Result<(), Error> {
        let closing = tokio::select! {
            served = &mut *connection => return served,
            closing = self.closing(activity) => closing,
        };
        match closing {
            Closing::Overdue(overdue) => self.end_overdue(connection, overdue).await,
            Closing::Drain => {
                let finished = self.finish(connection, activity);
                self.within_drain_timeout(finished).await
            }
        }
    }
}

/// Returns the identity of a certificate that the handshake has verified.
fn identity(chain: &[CertificateDer<'_>], trust_end: Option<Shutdown>) -> Option<PeerIdentity> {
    let leaf = chain.first()?;
    Some(PeerIdentity {
        id: Arc::new(workload_id(leaf).ok()?),
        until: certificate::expiry(leaf)?,
        trust_end,
    })
}

/// Waits until the answer that is streamed over HTTP/1.1 has to make room for another request.
async fn evicted(activity: &Activity) {
    poll_fn(|cx| activity.poll_evicted(cx)).await;
}

/// A connection in one HTTP version, which serves requests until its end.
trait HttpConnection: Future<Output = Result<(), Error>> + Unpin {
    /// Starts to drain, so that the connection ends after its requests in flight.
    fn start_drain(&mut self);
}

impl<I, S, H> HttpConnection for Http1<I, S, H>
where
    I: Io,
    S: HttpService<Incoming, ResBody = Tracked, Error = Infallible>,
{
    fn start_drain(&mut self) {
        self.drain();
    }
}

struct Http2<I, H> {
    h2: h2::server::Connection<Observed<I>, Bytes>,
    windows: Windows,
    serving: Arc<Serving<H>>,
}

impl<I: Io, H: Handler> Future for Http2<I, H> {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self {
            h2,
            windows,
            serving,
        } = &mut *self;
        windows.adapt(h2, &serving.activity);
        http2::poll_serve(h2, serving, cx).map_err(Into::into)
    }
}

impl<I: Io, H: Handler> HttpConnection for Http2<I, H> {
    fn start_drain(&mut self) {
        self.h2.graceful_shutdown();
    }
}
