//! Values of options that the agent and `ctl` share.

use std::{ffi::OsString, fs::File, io::Read, net::SocketAddr, path::PathBuf, time::Duration};

use dev_agent::{FederatedBundle, Partner, PartnerProfile};
use spiffe::{SpiffeId, TrustDomain};

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

/// Another trust domain, its bundle endpoint, and files that are not read yet.
#[derive(Clone, Debug)]
pub(super) struct FederateWith {
    trust_domain: TrustDomain,
    url: String,
    web: bool,
    id: Option<String>,
    bundle: Option<String>,
    ca: Option<String>,
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

/// Parses a trust domain, the URL of its bundle endpoint, and options.
pub(super) fn federate_with(text: &str) -> Result<FederateWith, String> {
    let mut parts = text.split(';');
    let (domain, url) = parts
        .next()
        .and_then(|main| main.split_once('='))
        .ok_or("there is no '=' between the trust domain and the URL; expected for example 'spiffe://example.com=https://spire.example.com:8443;bundle=bundle.json'")?;
    let mut with = FederateWith {
        trust_domain: trust_domain(domain)?,
        url: url.to_owned(),
        web: false,
        id: None,
        bundle: None,
        ca: None,
    };
    for option in parts {
        with.set(option)?;
    }
    with.check()
}

/// Parses the address of an HTTPS endpoint.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "expected an IP address and a port, for example 127.0.0.1:8443 or [::]:8443".to_owned()
    })
}

pub(super) fn spiffe_id(text: &str) -> Result<SpiffeId, String> {
    SpiffeId::new(text)
        .map_err(|error| format!("{error}; a SPIFFE ID is such as spiffe://example.org/server"))
}

/// Parses a trust domain in its canonical spelling.
pub(super) fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::new(text)
        .ok()
        .filter(|trust_domain| trust_domain.id_string() == text)
        .ok_or_else(|| format!("'{text}' is not a trust domain such as spiffe://example.com"))
}

impl FederateWith {
    fn set(&mut self, option: &str) -> Result<(), String> {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let owned = || Some(value.to_owned());
        match (name, value) {
            ("id", _) => self.id = owned(),
            ("bundle", _) => self.bundle = owned(),
            ("ca", _) => self.ca = owned(),
            ("profile", "https_web") => self.web = true,
            ("profile", "https_spiffe") => self.web = false,
            ("profile", _) => {
                return Err(format!(
                    "'{option}': the profiles are https_spiffe and https_web"
                ));
            }
            _ => {
                return Err(format!(
                    "'{option}' is not an option; profile=, id=, bundle= and ca= are"
                ));
            }
        }
        Ok(())
    }

    /// Refuses options of the other profile, which would have no effect.
    fn check(self) -> Result<Self, String> {
        if self.web && (self.id.is_some() || self.bundle.is_some()) {
            return Err(
                "id= and bundle= are options of profile=https_spiffe; leave them out".to_owned(),
            );
        }
        if !self.web && self.ca.is_some() {
            return Err("ca= is an option of profile=https_web; add that".to_owned());
        }
        Ok(self)
    }

    /// Reads the files. Returns the trust domain, the URL and the profile.
    pub(super) fn read(&self) -> Result<(TrustDomain, &str, PartnerProfile), String> {
        let read = |path: &Option<String>| path.as_deref().map(read_file).transpose();
        let profile = if self.web {
            PartnerProfile::HttpsWeb {
                ca: read(&self.ca)?,
            }
        } else {
            PartnerProfile::HttpsSpiffe {
                id: self.id.clone(),
                bundle: read(&self.bundle)?,
            }
        };
        Ok((self.trust_domain.clone(), &self.url, profile))
    }

    /// Reads the files, and checks all parameters.
    pub(super) fn partner(&self) -> Result<Partner, String> {
        let (trust_domain, url, profile) = self.read()?;
        Partner::new(trust_domain, url, profile).map_err(|error| error.to_string())
    }
}

/// Reads the text of a file, at most [`MAX_BUNDLE_FILE`] bytes of it.
pub(super) fn read_file(path: &str) -> Result<String, String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BUNDLE_FILE).read_to_string(&mut text))
        .map_err(|error| format!("cannot read {path}: {error}"))?;
    Ok(text)
}

impl FederateFile {
    /// Reads and parses the file. `ctl` ignores the agent's variables, so files are not read
    /// earlier.
    pub(super) fn read(&self) -> Result<FederatedBundle, String> {
        let document = read_file(&self.path)?;
        FederatedBundle::parse(self.trust_domain.clone(), &document)
            .map_err(|error| error.to_string())
    }
}
