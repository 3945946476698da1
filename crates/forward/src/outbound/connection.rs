//! An upstream connection: opened, and taken by one request.

use std::sync::Arc;

use http::{Request, Response};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serve::http2::RoundTrip;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

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

/// The most header fields of an answer. HTTP/1.1 needs to know before it reads them.
const MAX_FIELDS: usize = 256;

/// A connection that was just opened.
pub(super) enum Opened<B> {
    Shared(Sender, Arc<RoundTrip>),
    Exclusive(ExclusiveSender<B>),
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

/// Begins HTTP on a connection that was just verified, in the version that ALPN chose.
pub(super) async fn handshake<B: RequestBody>(
    tls: TlsStream<TcpStream>,
    is_exclusive: bool,
) -> Result<Opened<B>, Failure> {
    let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    if is_http2 {
        let (sender, round_trip) = http2::handshake(tls).await.map_err(Failure::Unsent)?;
        return Ok(match is_exclusive {
            true => Opened::Exclusive(ExclusiveSender::Http2(sender.into())),
            false => Opened::Shared(sender, round_trip),
        });
    }
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(MAX_FIELDS)
        .handshake(TokioIo::new(Box::new(tls)))
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

    /// Returns whether the request shares the connection.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self.kind, Kind::Shared(_))
    }

    /// Returns whether the connection speaks HTTP/2.
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
