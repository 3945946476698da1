//! The identity that the other end of a connection must have.

use anyhow::Context;
use common::{tls, workload::X509Source};
use forward::outbound::Security;
use process::bundles;
use rustls::pki_types::ServerName;
use spiffe::SpiffeId;

use crate::web_pki::{self, CaFile};

/// The identity that a peer must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PeerIdentity {
    /// A SPIFFE ID, in an X.509-SVID.
    SpiffeId(SpiffeId),
    /// A host name, in a certificate of the web PKI or of the CA in a file. Load balancers have such
    /// certificates.
    Name {
        /// The name.
        name: ServerName<'static>,
        /// The CA's certificates; the system's roots if there is no file.
        ca: Option<CaFile>,
    },
}

impl PeerIdentity {
    /// Returns the SPIFFE ID, if the peer has one.
    pub(crate) fn spiffe_id(&self) -> Option<&SpiffeId> {
        match self {
            Self::SpiffeId(id) => Some(id),
            Self::Name { .. } => None,
        }
    }

    /// Checks that there are CA certificates for a host name, so that a mistake is found before the Workload API is
    /// asked.
    ///
    /// # Errors
    /// Fails when there are no CA certificates.
    pub(crate) fn check_roots(&self) -> Result<(), web_pki::Error> {
        match self {
            Self::SpiffeId(_) => Ok(()),
            Self::Name { ca, .. } => web_pki::client(ca.as_ref()).map(drop),
        }
    }

    /// Warns when `bundles` has none for the trust domain of a SPIFFE ID, which `flag` names.
    pub(crate) fn warn_of_missing_bundle(&self, bundles: Option<&X509Source>, flag: &str) {
        if let (Self::SpiffeId(id), Some(bundles)) = (self, bundles) {
            bundles::warn_of_missing(bundles, "X.509", flag, [id.trust_domain()]);
        }
    }

    /// Returns the security of connections to the peer. `bundles` are needed for a SPIFFE ID.
    ///
    /// # Errors
    /// Fails when there is nothing to verify the peer with.
    pub(crate) fn security(&self, bundles: Option<&X509Source>) -> anyhow::Result<Security> {
        match self {
            Self::SpiffeId(id) => {
                let bundles = bundles.context("no X.509 bundles were fetched")?;
                Ok(tls::client(bundles, id).into())
            }
            Self::Name { name, ca } => Ok(Security::HostName {
                config: web_pki::client(ca.as_ref())?,
                name: Some(name.clone()),
            }),
        }
    }
}

/// Parses a host name that a certificate can have.
///
/// # Errors
/// Fails with an example when the text is not such a name.
pub(crate) fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned())
        .map_err(|_| format!("{text:?} is not a host name; expected for example lb.example.org"))
}
