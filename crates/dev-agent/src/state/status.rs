//! What an agent says about itself: for people as lines of text, for machines
//! through serde.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Registered, State};
use crate::authority::Ca;

/// Whether callers get answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// They do.
    Serving,
    /// They wait.
    Stalled,
    /// They are told that the agent is not available, or find no socket.
    Stopped,
}

/// What a published key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyUse {
    /// It signs.
    Current,
    /// It will sign next.
    Next,
    /// What it signed may still be valid.
    Old,
}

/// An agent at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// Whether callers get answers.
    pub phase: Phase,
    /// The trust domain of all entries.
    pub trust_domain: String,
    /// The path of the Workload API socket.
    pub socket: String,
    /// How many streams of X.509-SVIDs, X.509 bundles and JWT bundles are open.
    pub open_streams: usize,
    /// The entries in the order in which they were given.
    pub entries: Vec<EntryStatus>,
    /// The CAs in the trust bundle, the current one first.
    pub cas: Vec<CaStatus>,
    /// The keys in the JWT bundle, the current one first.
    pub jwt_keys: Vec<JwtKeyStatus>,
    /// The other trust domains whose bundles workloads get, as SPIFFE IDs.
    pub federated: Vec<String>,
}

/// One entry and its X.509-SVID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EntryStatus {
    /// The SPIFFE ID that matching callers get.
    pub spiffe_id: String,
    /// What a caller must have, all of it.
    pub selectors: Vec<String>,
    /// Whether it is out of force.
    pub withdrawn: bool,
    /// The serial number of its X.509-SVID, in hex.
    pub serial: String,
    /// When that expires.
    #[serde(flatten)]
    pub expiry: Expiry,
}

/// One CA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CaStatus {
    /// The common name of its certificate.
    pub name: String,
    /// What it is for.
    #[serde(rename = "use")]
    pub key_use: KeyUse,
    /// When its certificate expires.
    #[serde(flatten)]
    pub expiry: Expiry,
}

/// One key for JWT-SVIDs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JwtKeyStatus {
    /// Its key ID.
    pub kid: String,
    /// What it is for.
    #[serde(rename = "use")]
    pub key_use: KeyUse,
}

/// When a certificate expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Expiry {
    /// In seconds since 1970.
    pub not_after: u64,
    /// In seconds from now; 0 if it has.
    pub seconds_left: u64,
}

impl State {
    /// The state now, as people and machines are told.
    pub(crate) fn status(&self, socket: &Path) -> Status {
        let now = SystemTime::now();
        let inner = self.lock();
        let entry = |registered: &Registered| EntryStatus::new(registered, now);
        let ca = |(ca, key_use): (&Ca, KeyUse)| CaStatus {
            name: ca.name.clone(),
            key_use,
            expiry: Expiry::new(ca.not_after, now),
        };
        Status {
            phase: inner.phase,
            trust_domain: self.trust_domain.to_string(),
            socket: socket.display().to_string(),
            // One is the state's own.
            open_streams: Arc::strong_count(&self.streams) - 1,
            entries: inner.registered.iter().map(entry).collect(),
            cas: inner.cas.uses().map(ca).collect(),
            jwt_keys: inner
                .jwt_keys
                .uses()
                .map(|(key, key_use)| JwtKeyStatus {
                    kid: key.id.clone(),
                    key_use,
                })
                .collect(),
            federated: inner
                .federated
                .iter()
                .map(|bundle| bundle.trust_domain().id_string())
                .collect(),
        }
    }
}

impl EntryStatus {
    fn new(registered: &Registered, now: SystemTime) -> Self {
        let (entry, leaf) = (&registered.identity.entry, &registered.identity.leaf);
        Self {
            spiffe_id: entry.id().to_string(),
            selectors: entry.selectors().iter().map(ToString::to_string).collect(),
            withdrawn: registered.withdrawn,
            serial: leaf.serial.clone(),
            expiry: Expiry::new(leaf.not_after, now),
        }
    }
}

impl Expiry {
    fn new(not_after: SystemTime, now: SystemTime) -> Self {
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

/// Lines for people; the last one has no newline.
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
        f.write_str("\nfederated:")?;
        if self.federated.is_empty() {
            f.write_str("     none")?;
        }
        for domain in &self.federated {
            write!(f, "\n  {domain}")?;
        }
        Ok(())
    }
}
