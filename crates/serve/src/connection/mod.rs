//! One accepted connection: TLS handshake under a deadline, then the HTTP version that ALPN chose.

mod activity;
mod date;
mod exchange;
mod flight;
mod flood;
mod http1;
mod http2;
pub mod last;
mod observed;
mod received;
mod windows;

use std::{
    future::poll_fn,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::{body::Bytes, service::service_fn};
use hyper_util::{rt::TokioIo, server::graceful::GracefulConnection};
use tokio::{
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

pub(crate) use self::windows::WideWindows;
use self::{
    activity::{Activity, Overdue},
    exchange::Serving,
    observed::Observed,
    windows::Windows,
};
pub use self::{
    http1::http1,
    received::{ReceiveError, Received},
};
use crate::{
    accept::Handshake, handler::Handler, http2::dead, peer::Peer, shared::Shared,
    shutdown::Shutdown,
};

pub(crate) struct Connection {
    pub(crate) peer: Peer,
    /// The source that its requests are counted for.
    pub(crate) source: IpAddr,
    pub(crate) shared: Shared,
    pub(crate) shutdown: Shutdown,
}

/// Why a connection ended early; routine, and logged at debug.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
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
    #[error("its peer does not answer")]
    Dead,
    #[error("closed for another source's request")]
    Evicted,
    #[error("{0}")]
    Http1(#[from] hyper::Error),
    #[error("{0}")]
    Http2(#[from] h2::Error),
}

/// What a connection without a request in flight has left once a stop was asked for: to end its TLS
/// handshake, to send the request that it has begun, to answer GOAWAY. One that says nothing must
/// not delay the stop.
const LAST_CALL: Duration = Duration::from_secs(1);

impl Connection {
    pub(crate) async fn serve(
        self,
        tcp: TcpStream,
        acceptor: TlsAcceptor,
        handshake: Handshake,
        handler: impl Handler,
    ) -> Result<(), Error> {
        let (tls, _place) = self.open(tcp, acceptor, handshake).await?;
        let activity = Activity::new(self.shared.in_flight.of(self.source));
        let serving = Arc::new(Serving {
            handler,
            peer: self.peer.clone(),
            limits: self.shared.limits.clone(),
            activity: Arc::clone(&activity),
        });
        // Chosen by ALPN and never sniffed: sniffing waits without a deadline. Boxed because an idle
        // connection of one version would have room for one of the other as well.
        match tls.get_ref().1.alpn_protocol() == Some(b"h2") {
            true => Box::pin(self.http2(tls, &activity, serving)).await,
            false => Box::pin(self.http1(tls, &activity, serving)).await,
        }
    }

    /// The handshake's place is held until there is one for the connection.
    async fn open(
        &self,
        tcp: TcpStream,
        acceptor: TlsAcceptor,
        handshake: Handshake,
    ) -> Result<(TlsStream<TcpStream>, OwnedSemaphorePermit), Error> {
        let opening = async {
            let tls = acceptor.accept(tcp).await.map_err(Error::Handshake)?;
            Ok((tls, self.shared.admission.connection().await))
        };
        tokio::select! {
            opened = timeout(self.shared.limits.handshake_timeout, opening) => {
                opened.unwrap_or(Err(Error::HandshakeTimeout))
            }
            () = handshake.shed() => Err(Error::Shed),
            () = self.stopping() => Err(Error::Stopping),
        }
    }

    /// A request that is on its way when a stop comes is answered, and its answer says that it is the
    /// last. Closed before it, the connection would fail it, and nobody knows then whether it was
    /// served (RFC 9112 §9.6).
    async fn http1<H: Handler>(
        self,
        tls: TlsStream<TcpStream>,
        activity: &Arc<Activity>,
        serving: Arc<Serving<H>>,
    ) -> Result<(), Error> {
        let service = service_fn(move |request| http1::exchange(&serving, request));
        let io = TokioIo::new(Observed::http1(tls, Arc::clone(activity)));
        let mut conversation = Http1(Box::pin(http1().serve_connection(io, service)));
        let overdue = tokio::select! {
            served = &mut conversation => return served,
            overdue = activity.overdue(&self.shared.limits) => Some(overdue),
            () = evicted(activity) => return Err(Error::Evicted),
            () = self.shutdown.clone().requested() => None,
        };
        if overdue.is_none() {
            activity.stop();
            tokio::select! {
                served = &mut conversation => return served,
                overdue = activity.overdue(&self.shared.limits) => return Err(overdue.into()),
                () = evicted(activity) => return Err(Error::Evicted),
                () = activity.without_request_for(self.last_call()) => {}
            }
        }
        self.end(conversation, activity, overdue).await
    }

    /// A stop is told at once, by GOAWAY. A request that crosses it on the way is served (the first
    /// GOAWAY refuses none, the second follows the answer to a PING), or known not to be (RFC 9113
    /// §6.8).
    async fn http2<H: Handler>(
        self,
        tls: TlsStream<TcpStream>,
        activity: &Arc<Activity>,
        serving: Arc<Serving<H>>,
    ) -> Result<(), Error> {
        let io = Observed::http2(tls, Arc::clone(activity));
        let heard = io.heard();
        let mut connection = tokio::select! {
            connection = http2::handshake(io) => connection?,
            overdue = activity.overdue(&self.shared.limits) => return Err(overdue.into()),
            () = self.stopping() => return Err(Error::Stopping),
        };
        let ping = connection.ping_pong();
        let dead = dead(ping, heard, http2::PING_EVERY, http2::PING_TIMEOUT);
        let mut conversation = Http2 {
            connection,
            windows: self.shared.wide_windows.of(self.source),
            serving,
        };
        let serving = async {
            let overdue = tokio::select! {
                served = &mut conversation => return served,
                overdue = activity.overdue(&self.shared.limits) => Some(overdue),
                () = self.shutdown.clone().requested() => None,
            };
            self.end(conversation, activity, overdue).await
        };
        tokio::select! {
            served = serving => served,
            () = dead => Err(Error::Dead),
        }
    }

    /// Lets a connection end: what is in flight may finish.
    async fn end(
        &self,
        mut conversation: impl Conversation,
        activity: &Activity,
        overdue: Option<Overdue>,
    ) -> Result<(), Error> {
        conversation.say_goodbye();
        match overdue {
            None => tokio::select! {
                served = &mut conversation => served,
                overdue = activity.overdue(&self.shared.limits) => Err(overdue.into()),
                () = evicted(activity) => Err(Error::Evicted),
                () = activity.without_request_for(self.last_call()) => Err(Error::Stopping),
            },
            // There may be a response's last bytes on their way, or a request that just comes.
            Some(Overdue::Idle) => timeout(self.shared.limits.body_timeout, conversation)
                .await
                .unwrap_or(Err(Overdue::Idle.into())),
            Some(overdue) => Err(overdue.into()),
        }
    }

    /// A stop was asked for, and the time for handshakes in flight is over.
    async fn stopping(&self) {
        self.shutdown.clone().requested().await;
        sleep(self.last_call()).await;
    }

    /// Within the time that requests in flight have: an idle connection is closed, not cut off.
    fn last_call(&self) -> Duration {
        LAST_CALL.min(self.shared.limits.drain_timeout / 2)
    }
}

/// Returns once the answer that is being streamed has to make room for another request.
async fn evicted(activity: &Activity) {
    poll_fn(|cx| activity.poll_evicted(cx)).await;
}

/// A connection that serves requests until its end.
trait Conversation: Future<Output = Result<(), Error>> + Unpin {
    /// Ends it after the requests that it has.
    fn say_goodbye(&mut self);
}

struct Http1<C>(Pin<Box<C>>);

impl<C> Future for Http1<C>
where
    C: GracefulConnection<Error = hyper::Error>,
{
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map_err(Into::into)
    }
}

impl<C> Conversation for Http1<C>
where
    C: GracefulConnection<Error = hyper::Error>,
{
    fn say_goodbye(&mut self) {
        self.0.as_mut().graceful_shutdown();
    }
}

struct Http2<H> {
    connection: h2::server::Connection<Observed<TlsStream<TcpStream>>, Bytes>,
    windows: Windows,
    serving: Arc<Serving<H>>,
}

impl<H: Handler> Future for Http2<H> {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self {
            connection,
            windows,
            serving,
        } = &mut *self;
        windows.adapt(connection, &serving.activity);
        http2::poll_serve(connection, serving, cx).map_err(Into::into)
    }
}

impl<H: Handler> Conversation for Http2<H> {
    fn say_goodbye(&mut self) {
        self.connection.graceful_shutdown();
    }
}
