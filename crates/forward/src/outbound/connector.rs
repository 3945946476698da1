//! Opens connections to an endpoint: TCP or a Unix socket and TLS under one deadline, and then HTTP.
//!
//! The endpoint is verified in the TLS handshake. An endpoint without TLS is not verified.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use common::{cause, tls};
use rustls::{AlertDescription, ClientConfig, pki_types::ServerName};
use serve::tcp::set_options;
use spiffe::TrustDomain;
use tokio::{
    net::{TcpStream, UnixStream},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

use super::{
    age::Age,
    connection::{Opened, Wire, handshake},
    origin::{Location, Origin},
    prepared::RequestBody,
    retry::Failure,
    security::Security,
    url::Protocol,
};

/// The connections in a row that an endpoint may drain before a request.
const MAX_DRAINED: usize = 2;

/// Opens connections. The security decides what is verified.
pub(super) struct Connector {
    security: Security,
    /// The configurations, if there is TLS.
    offers: Option<Offers>,
    timeout: Duration,
}

/// TLS with each choice of versions of HTTP.
struct Offers {
    both: TlsConnector,
    http1: TlsConnector,
    http2: TlsConnector,
}

/// The versions of HTTP that a connection offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// Both versions. The connection is shared if the endpoint chooses HTTP/2.
    Both,
    /// HTTP/1.1 alone, for an exclusive connection.
    Http1,
    /// HTTP/2 alone, for an exclusive connection.
    Http2,
}

/// The reason why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The endpoint speaks HTTP/2, and not the HTTP/1.1 that was offered.
    #[error("it does not speak HTTP/1.1")]
    OnlyHttp2,
    /// The endpoint could not be verified, because no trust bundle may be used at present.
    #[error("no trust bundle may be used at present")]
    NoTrust,
    /// The endpoint could not be verified, because its trust domain has no bundle here.
    #[error("no X.509 bundle for trust domain {0}")]
    NoBundle(TrustDomain),
    /// The deadline passed.
    #[error("not connected within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// TCP, the Unix socket or TLS failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The beginning of HTTP failed.
    #[error(transparent)]
    Http(Failure),
}

impl Fault {
    /// Returns whether the endpoint speaks no version of HTTP that was offered (RFC 7301 §3.2).
    fn is_of_offer(&self) -> bool {
        let Self::Io(error) = self else {
            return false;
        };
        matches!(
            cause::find(error),
            Some(rustls::Error::AlertReceived(
                AlertDescription::NoApplicationProtocol
            ))
        )
    }
}

impl Connector {
    /// Returns a connector to peers that `security` accepts.
    pub(super) fn new(security: Security, timeout: Duration) -> Self {
        Self {
            offers: security.config().map(Offers::new),
            security,
            timeout,
        }
    }

    /// Returns the time that connecting may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Opens a connection to an endpoint. Returns it with its age, which limits how long it takes requests.
    /// An endpoint that drains a new connection before a request is connected to again, because another
    /// process may replace it.
    pub(super) async fn open<B: RequestBody>(
        &self,
        location: &Location,
        offer: Offer,
    ) -> Result<(Opened<B>, Age), Fault> {
        for _ in 0..MAX_DRAINED {
            match self.open_once(location, offer).await {
                Err(Fault::Http(failure)) if failure.is_drain() => {}
                opened => return opened,
            }
        }
        self.open_once(location, offer).await
    }

    async fn open_once<B: RequestBody>(
        &self,
        location: &Location,
        offer: Offer,
    ) -> Result<(Opened<B>, Age), Fault> {
        let wire = self.connect(location, offer).await?;
        let age = Age::of(wire.peer_certificate());
        let is_exclusive = offer != Offer::Both;
        match timeout(self.timeout, handshake(wire, is_exclusive)).await {
            Ok(opened) => Ok((opened.map_err(Fault::Http)?, age)),
            Err(_) => Err(Fault::Timeout(self.timeout)),
        }
    }

    pub(super) async fn connect(&self, location: &Location, offer: Offer) -> Result<Wire, Fault> {
        if let Some(domain) = self.security.missing_bundle() {
            return Err(Fault::NoBundle(domain.clone()));
        }
        let is_h2c = location.origin.upstream.protocol() == Protocol::H2c;
        if is_h2c && offer == Offer::Http1 {
            return Err(Fault::OnlyHttp2);
        }
        let connected = timeout(self.timeout, self.connect_to_any(location, offer)).await;
        match connected.unwrap_or(Err(Fault::Timeout(self.timeout))) {
            // The endpoint chooses HTTP/2 where it is offered, and no protocol here.
            Ok(Wire::Tls(tls))
                if offer == Offer::Http1 && tls.get_ref().1.alpn_protocol().is_none() =>
            {
                Err(Fault::OnlyHttp2)
            }
            Err(fault) if offer == Offer::Http1 && fault.is_of_offer() => Err(Fault::OnlyHttp2),
            // After a withdrawal a handshake fails as if the endpoint were at fault.
            Err(_) if !self.security.is_usable() => Err(Fault::NoTrust),
            connected => connected,
        }
    }

    /// Connects to the first address of the endpoint that accepts.
    async fn connect_to_any(&self, location: &Location, offer: Offer) -> Result<Wire, Fault> {
        let origin = &location.origin;
        let is_http2 = origin.upstream.protocol() == Protocol::H2c;
        if let Some(path) = origin.upstream.path() {
            let io = Either::Right(retry_while_full(|| UnixStream::connect(path)).await?);
            return Ok(Wire::Plaintext { io, is_http2 });
        }
        let mut fault = None;
        for address in &location.addresses {
            let io = match tcp(*address).await {
                Ok(io) => io,
                Err(error) => {
                    fault.get_or_insert(error);
                    continue;
                }
            };
            let Some(offers) = &self.offers else {
                let io = Either::Left(io);
                return Ok(Wire::Plaintext { io, is_http2 });
            };
            match self.handshake(offers.of(offer), *address, io, origin).await {
                Ok(tls) => return Ok(Wire::Tls(Box::new(tls))),
                // This error says more than an error of TCP.
                Err(error) => fault = Some(error),
            }
        }
        Err(fault
            .unwrap_or_else(|| io::ErrorKind::NotFound.into())
            .into())
    }

    /// Verifies the endpoint. A handshake that failed while trust changed is repeated, because it says
    /// nothing about the endpoint.
    async fn handshake(
        &self,
        config: &TlsConnector,
        address: SocketAddr,
        mut stream: TcpStream,
        origin: &Origin,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name: ServerName<'static> = self.security.server_name(origin.upstream.host_name())?;
        loop {
            let revision = self.security.revision();
            let connected = config.connect(name.clone(), stream).await;
            if connected.is_ok() || self.security.revision() == revision {
                return connected;
            }
            stream = tcp(address).await?;
        }
    }
}

impl Offers {
    fn new(config: &ClientConfig) -> Self {
        let [http2, http1] = tls::ALPN;
        let offering = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|one| one.to_vec()).collect();
            Arc::new(config).into()
        };
        Self {
            both: offering(&[http2, http1]),
            http1: offering(&[http1]),
            http2: offering(&[http2]),
        }
    }

    fn of(&self, offer: Offer) -> &TlsConnector {
        match offer {
            Offer::Both => &self.both,
            Offer::Http1 => &self.http1,
            Offer::Http2 => &self.http2,
        }
    }
}

pub(super) async fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = retry_while_full(|| TcpStream::connect(address)).await?;
    set_options(&tcp)?;
    Ok(tcp)
}

/// Connects, and waits while there is no room for one more connection.
pub(super) async fn retry_while_full<T, F>(connect: impl Fn() -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    loop {
        match connect().await {
            Err(error) if is_full(&error) => sleep(FULL_PAUSE).await,
            connected => return connected,
        }
    }
}

/// Returns whether there is no file descriptor, or the queue of the Unix socket is full (connect(2)). Both
/// pass as soon as some connection ends, or is accepted.
fn is_full(error: &io::Error) -> bool {
    use nix::errno::Errno::{EAGAIN, EMFILE, ENFILE};
    [EAGAIN, EMFILE, ENFILE]
        .iter()
        .any(|&errno| error.raw_os_error() == Some(errno as i32))
}

/// The pause before the next attempt.
const FULL_PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::os::unix::net;

    use socket2::{Domain, SockAddr, Socket, Type};
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_waits_for_room_in_the_queue_of_a_unix_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("full.sock");
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let listener = net::UnixListener::from(socket);
        listener.set_nonblocking(true).unwrap();
        let listener = UnixListener::from_std(listener).unwrap();
        let mut queued = Vec::new();
        let refused = loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => queued.push(stream),
                Err(error) => break error,
            }
        };
        assert!(is_full(&refused), "{refused}");
        let connecting = retry_while_full(|| UnixStream::connect(&path));
        let accepting = async {
            for _ in 0..=queued.len() {
                listener.accept().await.unwrap();
            }
        };
        let (connected, ()) = tokio::join!(connecting, accepting);
        connected.unwrap();
    }
}
