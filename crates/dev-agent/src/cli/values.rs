//! Values of options that the agent and `ctl` share.

use std::{ffi::OsString, fs::File, io::Read, path::PathBuf, time::Duration};

use dev_agent::FederatedBundle;
use spiffe::TrustDomain;

const DEFAULT_SOCKET: &str = "/tmp/agent.sock";
/// The standard variable by which clients find the agent (Workload Endpoint §4).
pub(super) const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
/// The most bytes that are read of a bundle file. The parser refuses a longer one.
const MAX_BUNDLE_FILE: u64 = (1 << 20) + 1;

/// The control socket of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// The default path, next to the Workload API socket.
    Default,
    /// This path.
    At(PathBuf),
    /// No socket.
    Off,
}

/// A trust domain and the file of its bundle.
#[derive(Clone, Debug)]
pub(super) struct FederateFile {
    pub(super) trust_domain: TrustDomain,
    path: String,
}

/// Returns the agent's socket: the named one, otherwise that of the environment, otherwise the
/// default.
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

/// Parses the path of a socket, or its address in the form that clients use.
pub(super) fn socket(text: &str) -> Result<PathBuf, String> {
    if text.starts_with("unix:") {
        return endpoint_path(text);
    }
    if text.is_empty() || text.contains("://") || text.starts_with("tcp:") {
        return Err("expected the path of a Unix socket, or unix:///PATH; no other transport tells which process the caller is".to_owned());
    }
    Ok(text.into())
}

/// Parses the path or address of a control socket, or 'none'.
pub(super) fn control(text: &str) -> Result<Control, String> {
    match text {
        "none" => Ok(Control::Off),
        _ => socket(text).map(Control::At),
    }
}

/// Parses a duration with a unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "expected a number and a unit, for example 90s, 5m or 1h".to_owned())
}

/// Parses an address of the form unix:///PATH.
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

/// Parses a trust domain and the path of its bundle.
pub(super) fn federate(text: &str) -> Result<FederateFile, String> {
    let (domain, path) = text
        .split_once('=')
        .ok_or("there is no '=' between the trust domain and the file; expected for example spiffe://example.com=bundle.json")?;
    Ok(FederateFile {
        trust_domain: trust_domain(domain)?,
        path: path.to_owned(),
    })
}

/// Parses a trust domain in its canonical spelling.
pub(super) fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::new(text)
        .ok()
        .filter(|trust_domain| trust_domain.id_string() == text)
        .ok_or_else(|| format!("'{text}' is not a trust domain such as spiffe://example.com"))
}

impl FederateFile {
    /// Reads and parses the file. `ctl` ignores the agent's variables, so files are not read
    /// earlier.
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
