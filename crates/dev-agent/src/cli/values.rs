//! Values that both the agent and `ctl` are given.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use dev_agent::FederatedBundle;
use spiffe::TrustDomain;

const DEFAULT_SOCKET: &str = "/tmp/agent.sock";
/// The standard's variable, in which clients find the agent (Workload Endpoint §4).
pub(super) const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
/// Longer files are refused when they are parsed.
const MAX_BUNDLE_FILE: u64 = (1 << 20) + 1;

/// Where an agent is controlled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// Beside its Workload API socket.
    Beside,
    /// On this socket.
    At(PathBuf),
    /// Nowhere.
    Off,
}

/// A trust domain and the file that has its bundle.
#[derive(Clone, Debug)]
pub(super) struct FederateFile {
    pub(super) trust_domain: TrustDomain,
    path: String,
}

/// The agent's socket: the one that was named, else that of the environment, else the default.
pub(super) fn workload_api(
    named: Option<PathBuf>,
    endpoint: Option<OsString>,
) -> Result<PathBuf, String> {
    match (named, endpoint) {
        (Some(socket), _) => Ok(socket),
        (None, Some(endpoint)) => endpoint_path(&endpoint.to_string_lossy())
            .map_err(|reason| format!("{ENDPOINT_VARIABLE}: {reason}")),
        (None, None) => Ok(DEFAULT_SOCKET.into()),
    }
}

/// A path as it is, or an address that clients would be given.
pub(super) fn socket(text: &str) -> Result<PathBuf, String> {
    if text.starts_with("unix:") {
        return endpoint_path(text);
    }
    if text.is_empty() || text.contains("://") || text.starts_with("tcp:") {
        return Err("give the path of a Unix socket, or unix:///PATH; no other transport tells who the caller is".to_owned());
    }
    Ok(text.into())
}

/// The same, or 'none'.
pub(super) fn control(text: &str) -> Result<Control, String> {
    match text {
        "none" => Ok(Control::Off),
        _ => socket(text).map(Control::At),
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "expected a number and a unit, for example 90s, 5m or 1h".to_owned())
}

fn endpoint_path(text: &str) -> Result<PathBuf, String> {
    let path = text
        .strip_prefix("unix://")
        .or_else(|| text.strip_prefix("unix:"))
        .filter(|path| path.starts_with('/') && *path != "/" && !path.contains(['?', '#', '%']));
    match path {
        Some(path) if !path.starts_with("//") => Ok(path.into()),
        _ => Err(format!(
            "'{text}' is not of the form unix:///PATH, for example unix:///tmp/agent.sock"
        )),
    }
}

pub(super) fn federate(text: &str) -> Result<FederateFile, String> {
    let (domain, path) = text
        .split_once('=')
        .ok_or("there is no '=' between the trust domain and the file; expected for example spiffe://example.com=bundle.json")?;
    Ok(FederateFile {
        trust_domain: trust_domain(domain)?,
        path: path.to_owned(),
    })
}

pub(super) fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::new(text)
        .ok()
        .filter(|trust_domain| trust_domain.id_string() == text)
        .ok_or_else(|| format!("'{text}' is not a trust domain such as spiffe://example.com"))
}

impl FederateFile {
    /// Reads the file; only now, as `ctl` has no use for what the agent was given.
    pub(super) fn read(&self) -> Result<FederatedBundle, String> {
        let path = &self.path;
        let mut document = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_BUNDLE_FILE).read_to_string(&mut document))
            .map_err(|error| format!("cannot read {path}: {error}"))?;
        FederatedBundle::parse(self.trust_domain.clone(), &document)
            .map_err(|error| error.to_string())
    }
}
