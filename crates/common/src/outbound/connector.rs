//! TCP and TLS to an endpoint under one deadline; its SPIFFE ID is verified in the handshake.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::pki_types::ServerName;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::endpoint::Place;
use crate::{cause, tls};

/// Opens connections. What is verified, the TLS configuration says.
pub(super) struct Connector {
    tls: TlsConnector,
    timeout: Duration,
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

impl Connector {
    /// Connects with `tls`, which decides who may be at the other end; ALPN offers HTTP/2 and 1.1.
    pub(super) fn new(tls: &tls::Outgoing, timeout: Duration) -> Self {
        let mut config = tls.config().clone();
        config.alpn_protocols = tls::ALPN.map(Vec::from).to_vec();
        Self {
            tls: Arc::new(config).into(),
            timeout,
        }
    }

    /// How long connecting may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Connects to the first of the addresses of `place` that lets it.
    pub(super) async fn connect(&self, place: &Place) -> Result<TlsStream<TcpStream>, Fault> {
        timeout(self.timeout, self.connect_to_any(place))
            .await
            .unwrap_or(Err(Fault::Timeout(self.timeout)))
    }

    async fn connect_to_any(&self, place: &Place) -> Result<TlsStream<TcpStream>, Fault> {
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
            match self.handshake(*address, tcp, &name).await {
                Ok(tls) => return Ok(tls),
                // Says more than that nobody is there.
                Err(error) => fault = Some(error),
            }
        }
        Err(fault
            .unwrap_or_else(|| io::ErrorKind::NotFound.into())
            .into())
    }

    async fn handshake(
        &self,
        address: SocketAddr,
        mut tcp_stream: TcpStream,
        name: &ServerName<'static>,
    ) -> io::Result<TlsStream<TcpStream>> {
        loop {
            match self.tls.connect(name.clone(), tcp_stream).await {
                Err(error) if is_between_revisions(&error) => {
                    sleep(REVISION_PAUSE).await;
                    tcp_stream = tcp(address).await?;
                }
                connected => return connected,
            }
        }
    }
}

async fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// How long `spiffe-rustls` is given to take in a new SVID or bundle before the next attempt.
const REVISION_PAUSE: Duration = Duration::from_millis(5);

/// For a moment after each update it refuses to verify anybody; that says nothing about the target.
fn is_between_revisions(error: &io::Error) -> bool {
    matches!(
        cause::find(error),
        Some(spiffe_rustls::Error::PendingRevision { .. })
    )
}
