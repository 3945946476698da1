//! The steps of a connection to an upstream, one by one: its name, TCP and TLS.
//!
//! Each step is the code that requests use, and fails with the error that a request has.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use common::tls::{PeerError, workload_id};
use rustls::{ProtocolVersion, pki_types::CertificateDer};
use spiffe::SpiffeId;
use tokio::{net::UnixStream, time::timeout};

use super::{
    connection::Wire,
    connector::{Connector, Fault, Offer, retry_while_full, tcp},
    error::Error,
    origin::{At, Location, Origin},
    resolver::look_up,
    security::Security,
    url::UpstreamUrl,
};

/// Tries the steps of a connection to one URL.
#[derive(Debug)]
pub struct Probe {
    origin: Arc<Origin>,
    expected: Option<SpiffeId>,
    timeout: Duration,
}

/// One endpoint of the URL.
#[derive(Debug)]
pub struct Target {
    location: Location,
    /// Set if the URL has several endpoints. Errors then have the address.
    is_of_several: bool,
}

/// The result of a TLS handshake with an endpoint, which was verified.
#[derive(Debug)]
pub struct Presented {
    /// The endpoint's leaf certificate, in DER.
    pub leaf: CertificateDer<'static>,
    /// The protocol that ALPN chose, if it did.
    pub alpn: Option<String>,
    /// The version of TLS, as `TLS 1.3`.
    pub version: &'static str,
}

impl Probe {
    /// Returns a probe of `url`. Each step may take `timeout`. `expected` is the SPIFFE ID that errors name.
    #[must_use]
    pub fn new(url: &UpstreamUrl, expected: Option<SpiffeId>, timeout: Duration) -> Self {
        Self {
            origin: Arc::new(Origin::new(url)),
            expected,
            timeout,
        }
    }

    /// Returns the URL's endpoints.
    ///
    /// # Errors
    /// Fails when the name has no address.
    pub async fn resolve(&self) -> Result<Vec<Target>, Error> {
        let found = match self.origin.literal() {
            Some(known) => Ok(known),
            None => look_up(&self.origin).await,
        };
        let found = found.map_err(|error| {
            let at = At::new(&self.origin, &[]);
            Error::unresolved(&error, at, self.expected.clone())
        })?;
        let is_of_several = found.len() > 1;
        let target = |addresses| Target {
            location: Location {
                id: 0,
                origin: Arc::clone(&self.origin),
                addresses,
            },
            is_of_several,
        };
        Ok(found.into_iter().map(target).collect())
    }

    /// Connects to the endpoint, over TCP or the Unix socket. Returns the address that accepted, if it has
    /// one.
    ///
    /// # Errors
    /// Fails when no address of the endpoint accepts.
    pub async fn reach(&self, target: &Target) -> Result<Option<SocketAddr>, Error> {
        let reached = timeout(self.timeout, target.reach()).await;
        let reached = reached.unwrap_or(Err(Fault::Timeout(self.timeout)));
        reached.map_err(|fault| self.unconnected(&fault, target))
    }

    /// Verifies the endpoint in a TLS handshake as `security` says. Returns `None` if there is no TLS.
    ///
    /// # Errors
    /// Fails when the endpoint is not verified.
    pub async fn handshake(
        &self,
        target: &Target,
        security: Security,
    ) -> Result<Option<Presented>, Error> {
        let connector = Connector::new(security, self.timeout);
        let wire = connector.connect(&target.location, Offer::Both).await;
        let wire = wire.map_err(|fault| self.unconnected(&fault, target))?;
        Ok(Presented::of(&wire))
    }

    fn unconnected(&self, fault: &Fault, target: &Target) -> Error {
        let at = target.location.at(target.is_of_several);
        Error::unconnected(fault, at, self.expected.clone())
    }
}

impl Target {
    async fn reach(&self) -> Result<Option<SocketAddr>, Fault> {
        if let Some(path) = self.location.origin.upstream.path() {
            retry_while_full(|| UnixStream::connect(path)).await?;
            return Ok(None);
        }
        let mut fault = None;
        for address in &self.location.addresses {
            match tcp(*address).await {
                Ok(_) => return Ok(Some(*address)),
                Err(error) => fault = fault.or(Some(error)),
            }
        }
        let none = || std::io::ErrorKind::NotFound.into();
        Err(fault.unwrap_or_else(none).into())
    }
}

/// Writes the endpoint's addresses, or the path of its Unix socket.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = self.location.origin.upstream.path() {
            return write!(f, "unix:{}", path.display());
        }
        for (index, address) in self.location.addresses.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{address}")?;
        }
        Ok(())
    }
}

impl Presented {
    fn of(wire: &Wire) -> Option<Self> {
        let Wire::Tls(tls) = wire else {
            return None;
        };
        let session = tls.get_ref().1;
        let alpn = session.alpn_protocol();
        Some(Self {
            leaf: wire.peer_certificate()?.clone(),
            alpn: alpn.map(|name| name.escape_ascii().to_string()),
            version: match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
                _ => "TLS 1.3",
            },
        })
    }

    /// Returns the endpoint's SPIFFE ID.
    ///
    /// # Errors
    /// Fails when the certificate has none, as that of a load balancer.
    pub fn spiffe_id(&self) -> Result<SpiffeId, PeerError> {
        workload_id(&self.leaf)
    }
}
