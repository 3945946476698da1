//! The security of connections to an upstream.

use std::{io, sync::Arc};

use common::tls::ClientTls;
use rustls::{ClientConfig, pki_types::ServerName};
use spiffe::{SpiffeId, TrustDomain};

/// The security of connections to an upstream, and the identity that its peer is verified to have.
#[derive(Clone, Debug)]
pub enum Security {
    /// TLS. The peer presents an X.509-SVID with the SPIFFE ID of the configuration
    /// ([`common::tls::client`]).
    SpiffeId(Box<ClientTls>),
    /// TLS. The peer presents a certificate for a host name (RFC 9525).
    HostName {
        /// Verifies the certificate. ALPN is set here.
        config: Arc<ClientConfig>,
        /// The name, if it is not the host of the upstream's URL.
        name: Option<ServerName<'static>>,
    },
    /// There is no TLS, and nothing is verified. This is for an application on this machine.
    Plaintext,
}

impl From<ClientTls> for Security {
    fn from(tls: ClientTls) -> Self {
        Self::SpiffeId(Box::new(tls))
    }
}

impl Security {
    /// Returns the TLS configuration, unless there is no TLS.
    pub(super) fn config(&self) -> Option<&ClientConfig> {
        match self {
            Self::SpiffeId(tls) => Some(tls.config()),
            Self::HostName { config, .. } => Some(config),
            Self::Plaintext => None,
        }
    }

    /// Returns the SPIFFE ID that the peer must have.
    pub(super) fn expected(&self) -> Option<&SpiffeId> {
        self.spiffe().map(ClientTls::expected)
    }

    fn spiffe(&self) -> Option<&ClientTls> {
        match self {
            Self::SpiffeId(tls) => Some(tls),
            Self::HostName { .. } | Self::Plaintext => None,
        }
    }

    /// Returns the name for TLS. A SPIFFE ID is verified whatever the name is.
    pub(super) fn server_name(&self, host: &str) -> io::Result<ServerName<'static>> {
        match self {
            Self::HostName {
                name: Some(name), ..
            } => Ok(name.clone()),
            _ => ServerName::try_from(host.to_owned()).map_err(io::Error::other),
        }
    }

    /// Returns the peer's trust domain if there is no trust bundle for it ([`ClientTls::missing_bundle`]).
    pub(super) fn missing_bundle(&self) -> Option<&TrustDomain> {
        self.spiffe().and_then(ClientTls::missing_bundle)
    }

    /// Returns whether peers can be verified at present.
    pub(super) fn is_usable(&self) -> bool {
        self.spiffe().is_none_or(ClientTls::is_usable)
    }

    /// Returns the number of the current trust ([`ClientTls::revision`]).
    pub(super) fn revision(&self) -> u64 {
        self.spiffe().map_or(0, ClientTls::revision)
    }

    /// Waits for the next change of the trust that verifies the peer ([`ClientTls::changed`]).
    pub(super) async fn changed(&mut self) {
        match self {
            Self::SpiffeId(tls) => tls.changed().await,
            Self::HostName { .. } | Self::Plaintext => std::future::pending().await,
        }
    }
}
