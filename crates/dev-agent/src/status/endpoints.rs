//! The status of the endpoints, and of those that the agent fetches bundles from.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::endpoint::EndpointMode;

/// Another trust domain whose bundle the agent fetches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PartnerStatus {
    /// The trust domain as a SPIFFE ID.
    pub trust_domain: String,
    /// The URL of its bundle endpoint.
    pub url: String,
    /// The profile: `https_spiffe` or `https_web`.
    pub profile: String,
    /// The result of the last fetch.
    pub state: PartnerState,
    /// The number of fetches that failed since the last one that did not.
    pub failures: u32,
    /// The reason why the last fetch failed.
    pub error: Option<String>,
    /// The sequence number of the bundle that workloads have.
    pub sequence: Option<u64>,
    /// The period of the fetches in seconds.
    pub refresh_hint: u64,
    /// Seconds since the last fetch that did not fail.
    pub fetched_seconds_ago: Option<u64>,
}

/// The result of the last fetch of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartnerState {
    /// The first fetch has not ended.
    Waiting,
    /// The bundle is that of the endpoint.
    Current,
    /// The endpoint gave no bundle. Workloads have the last one.
    Failing,
}

/// The endpoint that serves the own bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BundleEndpointStatus {
    /// The address that it listens on.
    pub address: String,
    /// The profile: `https_spiffe` or `https_web`.
    pub profile: String,
    /// The SPIFFE ID that it presents with the profile `https_spiffe`.
    pub spiffe_id: Option<String>,
    /// Its behaviour.
    pub mode: EndpointMode,
    /// The sequence number of the bundle.
    pub sequence: u64,
    /// The refresh hint in seconds.
    pub refresh_hint: u64,
}

/// The endpoint for validators that do not speak SPIFFE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OidcEndpointStatus {
    /// The address that it listens on.
    pub address: String,
    /// The issuer of the tokens.
    pub issuer: String,
}

/// Writes one line for people.
impl fmt::Display for PartnerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trust_domain,
            url,
            profile,
            ..
        } = self;
        write!(f, "{trust_domain}  {profile}  {url}  ")?;
        match self.state {
            PartnerState::Waiting => f.write_str("not fetched yet")?,
            PartnerState::Current => f.write_str("current")?,
            PartnerState::Failing => {
                let error = self.error.as_deref().unwrap_or_default();
                write!(f, "failed {} times: {error}", self.failures)?;
            }
        }
        if let Some(sequence) = self.sequence {
            write!(f, ", sequence {sequence}")?;
        }
        if let Some(ago) = self.fetched_seconds_ago {
            write!(f, ", fetched {} ago", seconds(ago))?;
        }
        write!(f, ", again every {}", seconds(self.refresh_hint))
    }
}

/// Writes one line for people.
impl fmt::Display for BundleEndpointStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}  {}  ", self.address, self.profile)?;
        if let Some(id) = &self.spiffe_id {
            write!(f, "{id}  ")?;
        }
        let hint = seconds(self.refresh_hint);
        let (mode, sequence) = (self.mode.name(), self.sequence);
        write!(f, "{mode}, sequence {sequence}, refresh hint {hint}")
    }
}

fn seconds(seconds: u64) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(seconds))
}
