//! The settings of the endpoints.

use std::{net::SocketAddr, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use spiffe::{SpiffeId, TrustDomain};

use super::web::WebCertificate;
use crate::error::Error;

/// The refresh hint of SPIRE, and the period at which a bundle without a hint is fetched (Federation
/// §4.1).
pub(crate) const DEFAULT_HINT: Duration = Duration::from_secs(300);

/// The endpoint from which other trust domains get the agent's bundle.
#[derive(Clone, Debug)]
pub struct BundleEndpoint {
    /// The address that it listens on.
    pub address: SocketAddr,
    /// The identity that it presents.
    pub identity: EndpointIdentity,
    /// The period at which others fetch the bundle again.
    pub refresh_hint: Duration,
}

/// The identity of a bundle endpoint, which is that of its profile (Federation §5.2).
#[derive(Clone, Debug)]
pub enum EndpointIdentity {
    /// `https_spiffe`: an X.509-SVID with this SPIFFE ID, by default
    /// `spiffe://TRUST-DOMAIN/spire/server` as SPIRE's.
    Spiffe(Option<SpiffeId>),
    /// `https_web`: a certificate that has the endpoint's name.
    Web(WebCertificate),
}

/// The endpoint for validators that do not speak SPIFFE.
#[derive(Clone, Debug)]
pub struct OidcEndpoint {
    /// The address that it listens on.
    pub address: SocketAddr,
    /// The certificate that it presents.
    pub certificate: WebCertificate,
}

impl BundleEndpoint {
    /// Returns the settings with the profile `https_spiffe`, SPIRE's SPIFFE ID and SPIRE's refresh
    /// hint.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            identity: EndpointIdentity::Spiffe(None),
            refresh_hint: DEFAULT_HINT,
        }
    }
}

impl EndpointIdentity {
    pub(super) fn profile(&self) -> &'static str {
        match self {
            Self::Spiffe(_) => "https_spiffe",
            Self::Web(_) => "https_web",
        }
    }
}

/// Returns the SPIFFE ID that SPIRE's bundle endpoint has in this trust domain.
pub(crate) fn default_id(trust_domain: &TrustDomain) -> Result<SpiffeId, Error> {
    let id = SpiffeId::new(format!("{}/spire/server", trust_domain.id_string()));
    id.map_err(|error| Error::setting("bundle-endpoint-id", error.to_string()))
}

/// The behaviour of the bundle endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointMode {
    /// It serves the current bundle.
    Normal,
    /// It serves the bundle of the moment at which this mode began.
    Stale,
    /// It serves the current keys with the sequence number 1.
    OldSequence,
    /// It serves a bundle without keys.
    Empty,
    /// It serves what is not a bundle.
    Garbage,
    /// It presents a certificate of a CA that nobody trusts.
    WrongCertificate,
    /// It presents an X.509-SVID of another workload of its trust domain.
    WrongIdentity,
    /// It answers 404.
    NotFound,
    /// It refuses connections.
    Gone,
}

impl EndpointMode {
    /// All modes, in the order of the help.
    pub const ALL: [Self; 9] = [
        Self::Normal,
        Self::Stale,
        Self::OldSequence,
        Self::Empty,
        Self::Garbage,
        Self::WrongCertificate,
        Self::WrongIdentity,
        Self::NotFound,
        Self::Gone,
    ];

    /// Returns the name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Stale => "stale",
            Self::OldSequence => "old-sequence",
            Self::Empty => "empty",
            Self::Garbage => "garbage",
            Self::WrongCertificate => "wrong-certificate",
            Self::WrongIdentity => "wrong-identity",
            Self::NotFound => "not-found",
            Self::Gone => "gone",
        }
    }
}

impl FromStr for EndpointMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        all.find(|mode| mode.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name);
            format!("expected one of {}", names.join(", "))
        })
    }
}
