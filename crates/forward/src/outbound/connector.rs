//! TCP and TLS to an endpoint under one deadline; its SPIFFE ID is verified in the handshake.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use common::{cause, tls};
use rustls::{AlertDescription, pki_types::ServerName};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::endpoint::Place;

/// Opens connections. What is verified, the TLS configuration says.
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

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The deadline passed.
    #[error("not connected within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// TCP's or TLS's.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Fault {
    /// Returns whether the target speaks no version of HTTP that was offered (RFC 7301 §3.2).
    pub(super) fn is_of_offer(&self) -> bool {
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
    /// Connects with `tls`, which decides who may be at the other end.
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

    /// Whether there is anything to verify by.
    pub(super) fn is_usable(&self) -> bool {
        self.tls.is_usable()
    }

    /// How long connecting may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Connects to the first of the addresses of `place` that lets it.
    pub(super) async fn connect(
        &self,
        place: &Place,
        offer: Offer,
    ) -> Result<TlsStream<TcpStream>, Fault> {
        timeout(self.timeout, self.connect_to_any(place, offer))
            .await
            .unwrap_or(Err(Fault::Timeout(self.timeout)))
    }

    async fn connect_to_any(
        &self,
        place: &Place,
        offer: Offer,
    ) -> Result<TlsStream<TcpStream>, Fault> {
        let config = match offer {
            Offer::Both => &self.both,
            Offer::Http1 => &self.http1,
            Offer::Http2 => &self.http2,
        };
        let name = place.origin.server_name()?;
        let mut fault = None;
        for address in &place.addresses {
            let tcp = match tcp(*address).await {
                Ok(tcp) => tcp,
                Err(error) => {
                    fault.get_or_insert(error);
                    continue;
                }
            };
            match self.handshake(config, *address, tcp, &name).await {
                Ok(tls) => return Ok(tls),
                // Says more than that nobody is there.
                Err(error) => fault = Some(error),
            }
        }
        Err(fault
            .unwrap_or_else(|| io::ErrorKind::NotFound.into())
            .into())
    }

    /// A handshake that failed while what it verifies by changed says nothing about the target.
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

    /// Of what is verified by, once it has one.
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
            // It is nobody's fault, and over when a connection ends.
            Err(error) if is_out_of_files(&error) => sleep(FILES_PAUSE).await,
            connected => break connected?,
        }
    };
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// Returns whether a process or the machine is out of file descriptors.
fn is_out_of_files(error: &io::Error) -> bool {
    use nix::errno::Errno::{EMFILE, ENFILE};
    [EMFILE, ENFILE]
        .iter()
        .any(|&errno| error.raw_os_error() == Some(errno as i32))
}

/// The pause before a descriptor is asked for again.
const FILES_PAUSE: Duration = Duration::from_millis(20);

/// How long `spiffe-rustls` is given to take in a new SVID or bundle before the next look.
const REVISION_PAUSE: Duration = Duration::from_millis(1);
