//! Opens connections: TCP and TLS to an endpoint under one deadline, and then HTTP.
//!
//! The endpoint's SPIFFE ID is verified in the TLS handshake.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use common::{cause, tls};
use rustls::{AlertDescription, pki_types::ServerName};
use spiffe::TrustDomain;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    age::Age,
    connection::{Opened, handshake},
    origin::Location,
    prepared::RequestBody,
    retry::Failure,
};

/// Opens connections. The TLS configuration decides what is verified.
pub(super) struct Connector {
    both: TlsConnector,
    http1: TlsConnector,
    http2: TlsConnector,
    tls: tls::ClientTls,
    timeout: Duration,
}

/// The versions of HTTP that a connection offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    Both,
    Http1,
    Http2,
}

/// The reason why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The endpoint speaks HTTP/2, and not the HTTP/1.1 that was offered.
    #[error("it does not speak HTTP/1.1")]
    OnlyHttp2,
    /// The endpoint could not be verified, because this process has no identity at present.
    #[error("no identity is issued to this process at present")]
    NoTrust,
    /// The endpoint could not be verified, because its trust domain has no bundle here.
    #[error("no X.509 bundle for trust domain {0}")]
    NoBundle(TrustDomain),
    /// The deadline passed.
    #[error("not connected within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// TCP or TLS failed.
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
    /// Connects with `tls`, which decides the identity that is accepted.
    pub(super) fn new(tls: tls::ClientTls, timeout: Duration) -> Self {
        let [http2, http1] = tls::ALPN;
        let offering = |protocols: &[&[u8]]| {
            let mut config = tls.config().clone();
            config.alpn_protocols = protocols.iter().map(|one| one.to_vec()).collect();
            Arc::new(config).into()
        };
        Self {
            both: offering(&[http2, http1]),
            http1: offering(&[http1]),
            http2: offering(&[http2]),
            tls,
            timeout,
        }
    }

    /// Returns the time that connecting may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Opens a connection to an endpoint, and tells for how long it takes requests.
    pub(super) async fn open<B: RequestBody>(
        &self,
        location: &Location,
        offer: Offer,
    ) -> Result<(Opened<B>, Age), Fault> {
        let tls = self.connect(location, offer).await?;
        let age = Age::of(&tls);
        let is_exclusive = offer != Offer::Both;
        match timeout(self.timeout, handshake(tls, is_exclusive)).await {
            Ok(opened) => Ok((opened.map_err(Fault::Http)?, age)),
            Err(_) => Err(Fault::Timeout(self.timeout)),
        }
    }

    async fn connect(
        &self,
        location: &Location,
        offer: Offer,
    ) -> Result<TlsStream<TcpStream>, Fault> {
        if let Some(domain) = self.tls.missing_bundle() {
            return Err(Fault::NoBundle(domain.clone()));
        }
        let connected = timeout(self.timeout, self.connect_to_any(location, offer)).await;
        match connected.unwrap_or(Err(Fault::Timeout(self.timeout))) {
            // An endpoint that chooses HTTP/2 where it may, and no protocol here.
            Ok(tls) if offer == Offer::Http1 && tls.get_ref().1.alpn_protocol().is_none() => {
                Err(Fault::OnlyHttp2)
            }
            Err(fault) if offer == Offer::Http1 && fault.is_of_offer() => Err(Fault::OnlyHttp2),
            // After a withdrawal a handshake fails as if the endpoint were at fault.
            Err(_) if !self.tls.is_usable() => Err(Fault::NoTrust),
            connected => connected,
        }
    }

    /// Connects to the first address of the endpoint that accepts.
    async fn connect_to_any(
        &self,
        location: &Location,
        offer: Offer,
    ) -> Result<TlsStream<TcpStream>, Fault> {
        let config = match offer {
            Offer::Both => &self.both,
            Offer::Http1 => &self.http1,
            Offer::Http2 => &self.http2,
        };
        let name = location.origin.server_name()?;
        let mut fault = None;
        for address in &location.addresses {
            let tcp = match tcp(*address).await {
                Ok(tcp) => tcp,
                Err(error) => {
                    fault.get_or_insert(error);
                    continue;
                }
            };
            match self.handshake(config, *address, tcp, &name).await {
                Ok(tls) => return Ok(tls),
                // This error says more than one of TCP.
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
        name: &ServerName<'static>,
    ) -> io::Result<TlsStream<TcpStream>> {
        loop {
            let revision = self.revision().await;
            let connected = config.connect(name.clone(), stream).await;
            if connected.is_ok() || self.tls.revision() == Some(revision) {
                return connected;
            }
            stream = tcp(address).await?;
        }
    }

    /// Waits until the current SVIDs and bundles are in use, and returns their number.
    async fn revision(&self) -> u64 {
        loop {
            match self.tls.revision() {
                Some(revision) => return revision,
                None => sleep(REVISION_PAUSE).await,
            }
        }
    }
}

async fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = loop {
        match TcpStream::connect(address).await {
            // A descriptor is free as soon as some connection ends.
            Err(error) if is_out_of_files(&error) => sleep(FILES_PAUSE).await,
            connected => break connected?,
        }
    };
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// Returns whether the process or the machine is out of file descriptors.
fn is_out_of_files(error: &io::Error) -> bool {
    use nix::errno::Errno::{EMFILE, ENFILE};
    [EMFILE, ENFILE]
        .iter()
        .any(|&errno| error.raw_os_error() == Some(errno as i32))
}

/// The pause before the next attempt to get a descriptor.
const FILES_PAUSE: Duration = Duration::from_millis(20);

/// The pause before the next look whether `spiffe-rustls` uses a new SVID or bundle.
const REVISION_PAUSE: Duration = Duration::from_millis(1);
