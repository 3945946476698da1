//! The status of an agent: lines of text for people, serde for machines.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

mod endpoints;

pub use self::endpoints::{BundleEndpointStatus, OidcEndpointStatus, PartnerState, PartnerStatus};

/// The readiness of an agent to answer calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Calls are answered.
    Serving,
    /// Calls wait.
    Stalled,
    /// Calls end with Unavailable, and then there is no socket.
    Stopped,
}

/// The use of a published key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyUse {
    /// The key signs.
    Current,
    /// The key will sign next.
    Next,
    /// The key signs no more, but SVIDs that it signed may still be valid.
    Old,
}

/// An agent at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// The readiness of the agent to answer calls.
    pub phase: Phase,
    /// The trust domain of all entries.
    pub trust_domain: String,
    /// The path of the Workload API socket.
    pub socket: String,
    /// The number of open streams of X.509-SVIDs, X.509 bundles and JWT bundles.
    pub open_streams: usize,
    /// The entries in the order in which they were given.
    pub entries: Vec<EntryStatus>,
    /// The CAs in the trust bundle, the current one first.
    pub cas: Vec<CaStatus>,
    /// The keys in the JWT bundle, the current one first.
    pub jwt_keys: Vec<JwtKeyStatus>,
    /// The other trust domains whose bundles workloads get, as SPIFFE IDs.
    pub federated: Vec<String>,
    /// The other trust domains whose bundles the agent fetches.
    pub partners: Vec<PartnerStatus>,
    /// The endpoint that serves the own bundle.
    pub bundle_endpoint: Option<BundleEndpointStatus>,
    /// The endpoint for validators that do not speak SPIFFE.
    pub oidc_endpoint: Option<OidcEndpointStatus>,
}

/// One entry and its X.509-SVID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EntryStatus {
    /// The SPIFFE ID that matching callers get.
    pub spiffe_id: String,
    /// The selectors that a caller must have, all of them.
    pub selectors: Vec<String>,
    /// True while the entry is withdrawn.
    pub withdrawn: bool,
    /// The serial number of the X.509-SVID, in hex.
    pub serial: String,
    /// The expiry of the X.509-SVID.
    #[serde(flatten)]
    pub expiry: Expiry,
}

/// One CA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CaStatus {
    /// The common name of its certificate.
    pub name: String,
    /// The use of the key.
    #[serde(rename = "use")]
    pub key_use: KeyUse,
    /// The expiry of the certificate.
    #[serde(flatten)]
    pub expiry: Expiry,
}

/// One key for JWT-SVIDs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JwtKeyStatus {
    /// The key ID.
    pub kid: String,
    /// The use of the key.
    #[serde(rename = "use")]
    pub key_use: KeyUse,
}

/// The time at which a certificate expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Expiry {
    /// Seconds since 1970.
    pub not_after: u64,
    /// Seconds from now; 0 after the expiry.
    pub seconds_left: u64,
}

impl Expiry {
    pub(crate) fn new(not_after: SystemTime, now: SystemTime) -> Self {
        let seconds = |since| {
            not_after
                .duration_since(since)
                .unwrap_or_default()
                .as_secs()
        };
        Self {
            not_after: seconds(UNIX_EPOCH),
            seconds_left: seconds(now),
        }
    }
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Stalled => "stalled",
            Self::Stopped => "stopped",
        }
    }
}

impl KeyUse {
    fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Next => "next",
            Self::Old => "old",
        }
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seconds_left {
            0 => f.write_str("expired"),
            left => write!(
                f,
                "{} left",
                humantime::format_duration(Duration::from_secs(left))
            ),
        }
    }
}

/// Writes lines for people; the last one has no newline.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "phase:         {}", self.phase.name())?;
        writeln!(f, "trust domain:  {}", self.trust_domain)?;
        writeln!(f, "socket:        {}", self.socket)?;
        writeln!(f, "open streams:  {}", self.open_streams)?;
        f.write_str("entries:")?;
        let width = self.entries.iter().map(|entry| entry.spiffe_id.len()).max();
        let width = width.unwrap_or_default();
        for entry in &self.entries {
            let (id, selectors) = (&entry.spiffe_id, entry.selectors.join(","));
            let state = if entry.withdrawn {
                "withdrawn".to_owned()
            } else {
                entry.expiry.to_string()
            };
            write!(f, "\n  {id:width$}  {state:16}  {selectors}")?;
        }
        f.write_str("\nCAs:")?;
        for ca in &self.cas {
            write!(f, "\n  {}  {:7}  {}", ca.name, ca.key_use.name(), ca.expiry)?;
        }
        f.write_str("\nJWT keys:")?;
        for key in &self.jwt_keys {
            write!(f, "\n  {}  {}", key.kid, key.key_use.name())?;
        }
        self.write_federation(f)
    }
}

impl Status {
    /// Writes the bundles of other trust domains, and the endpoints of bundles and keys.
    fn write_federation(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\nfederated:")?;
        if self.federated.is_empty() {
            f.write_str("     none")?;
        }
        for domain in &self.federated {
            write!(f, "\n  {domain}")?;
        }
        if !self.partners.is_empty() {
            f.write_str("\nfetched from:")?;
        }
        for partner in &self.partners {
            write!(f, "\n  {partner}")?;
        }
        if let Some(endpoint) = &self.bundle_endpoint {
            write!(f, "\nbundle endpoint:\n  {endpoint}")?;
        }
        if let Some(endpoint) = &self.oidc_endpoint {
            let (address, issuer) = (&endpoint.address, &endpoint.issuer);
            write!(f, "\nOIDC endpoint:\n  https://{address}  issuer {issuer}")?;
        }
        Ok(())
    }
}
