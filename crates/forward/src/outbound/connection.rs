//! An upstream connection: opened, and taken by one request.

use std::sync::Arc;

use http::{Request, Response};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use serve::http2::RoundTrip;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::{
    arriving::Arriving,
    exclusive::{ExclusiveConnection, ExclusiveSender},
    http2::{self, Sender},
    in_flight::{CountedRequest, InFlight},
    origin::Location,
    prepared::{Need, RequestBody},
    retry::Failure,
    sent::Sent,
    shared::SharedConnection,
    upload::UploadBody,
};
use crate::crossing::MAX_ANSWER_FIELDS;

/// A connection before HTTP begins on it.
pub(super) enum Wire {
    Tls(Box<TlsStream<TcpStream>>),
    Plaintext {
        io: Either<TcpStream, UnixStream>,
        is_http2: bool,
    },
}

impl Wire {
    /// Returns the certificate that the peer has presented, if there is TLS.
    pub(super) fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Self::Tls(tls) => tls.get_ref().1.peer_certificates()?.first(),
            Self::Plaintext { .. } => None,
        }
    }
}

/// A connection that was just opened.
pub(super) enum Opened<B> {
    Shared(Sender, Arc<RoundTrip>),
    Exclusive(ExclusiveSender<B>),
}

impl<B> Opened<B> {
    pub(super) fn is_http2(&self) -> bool {
        !matches!(self, Self::Exclusive(ExclusiveSender::Http1(_)))
    }
}

/// A connection that one request has taken.
pub(super) struct Connection<B> {
    pub(super) location: Arc<Location>,
    pub(super) counted: CountedRequest,
    pub(super) kind: Kind<B>,
}

pub(super) enum Kind<B> {
    Shared(Arc<SharedConnection>),
    Exclusive(Box<ExclusiveConnection<B>>),
}

/// Begins HTTP on a connection that was just opened, in the version that ALPN chose or the URL names.
pub(super) async fn handshake<B: RequestBody>(
    wire: Wire,
    is_exclusive: bool,
) -> Result<Opened<B>, Failure> {
    match wire {
        Wire::Tls(tls) => {
            let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
            begin(tls, is_http2, is_exclusive).await
        }
        Wire::Plaintext { io, is_http2 } => begin(io, is_http2, is_exclusive).await,
    }
}

async fn begin<B: RequestBody>(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    is_http2: bool,
    is_exclusive: bool,
) -> Result<Opened<B>, Failure> {
    if is_http2 {
        let (sender, round_trip) = http2::handshake(io, is_exclusive)
            .await
            .map_err(Failure::Unsent)?;
        return Ok(if is_exclusive {
            Opened::Exclusive(ExclusiveSender::Http2(sender.into()))
        } else {
            Opened::Shared(sender, round_trip)
        });
    }
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(MAX_ANSWER_FIELDS)
        .handshake(TokioIo::new(io))
        .await?;
    tokio::spawn(connection.with_upgrades());
    // Until its task has run, the connection looks as if it had a request.
    sender.ready().await?;
    Ok(Opened::Exclusive(ExclusiveSender::Http1(sender)))
}

impl<B: RequestBody> Connection<B> {
    /// Takes part of a shared connection.
    pub(super) fn shared(
        location: &Arc<Location>,
        shared: &Arc<SharedConnection>,
        need: Need,
    ) -> Self {
        Self {
            location: Arc::clone(location),
            counted: CountedRequest::on(&shared.in_flight, need.shared_bytes()),
            kind: Kind::Shared(Arc::clone(shared)),
        }
    }

    /// Takes an exclusive connection of an endpoint whose counts are `in_flight`.
    pub(super) fn exclusive(
        location: &Arc<Location>,
        exclusive: ExclusiveConnection<B>,
        in_flight: &Arc<InFlight>,
    ) -> Self {
        Self {
            location: Arc::clone(location),
            counted: CountedRequest::on(in_flight, 0),
            kind: Kind::Exclusive(Box::new(exclusive)),
        }
    }

    pub(super) fn is_shared(&self) -> bool {
        matches!(self.kind, Kind::Shared(_))
    }

    pub(super) fn is_http2(&self) -> bool {
        match &self.kind {
            Kind::Shared(_) => true,
            Kind::Exclusive(exclusive) => exclusive.is_http2(),
        }
    }

    /// Sends the request in the form that the connection speaks.
    pub(super) async fn send(
        &mut self,
        request: Request<UploadBody<B>>,
    ) -> Result<Response<Arriving>, Failure> {
        match &mut self.kind {
            Kind::Exclusive(exclusive) => exclusive.send(request).await,
            Kind::Shared(shared) => {
                let answer = http2::send_whole(shared.sender(), request)?;
                Sent::new(answer, &self.counted).await
            }
        }
    }
}
