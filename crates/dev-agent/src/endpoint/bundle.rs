//! The bundle endpoint (SPIFFE Federation §5), and the ways in which it can misbehave.

use std::{
    net::SocketAddr,
    str::FromStr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use http::StatusCode;
use rustls::{crypto::aws_lc_rs, pki_types::PrivatePkcs8KeyDer, sign::CertifiedKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spiffe::SpiffeId;

use super::{BundleEndpoint, EndpointIdentity, default_id, server::Site};
use crate::{
    authority::{Ca, Leaf},
    error::Error,
    lock::lock,
    state::State,
    status::BundleEndpointStatus,
};

/// The life of a CA that nobody trusts.
const A_DAY: Duration = Duration::from_secs(24 * 3600);

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

/// The contents of the bundle endpoint.
pub(super) struct BundleSite {
    state: Arc<State>,
    identity: EndpointIdentity,
    /// The SPIFFE ID of the profile `https_spiffe`.
    id: SpiffeId,
    refresh_hint: Duration,
    behaviour: Mutex<Behaviour>,
}

struct Behaviour {
    mode: EndpointMode,
    /// The document that a stale endpoint serves.
    frozen: String,
}

impl BundleSite {
    pub(super) fn new(state: Arc<State>, settings: &BundleEndpoint) -> Result<Self, Error> {
        let id = match &settings.identity {
            EndpointIdentity::Spiffe(Some(id)) => id.clone(),
            _ => default_id(&state.trust_domain)?,
        };
        Ok(Self {
            state,
            identity: settings.identity.clone(),
            id,
            refresh_hint: settings.refresh_hint,
            behaviour: Mutex::new(Behaviour {
                mode: EndpointMode::Normal,
                frozen: String::new(),
            }),
        })
    }

    pub(super) fn profile(&self) -> &'static str {
        self.identity.profile()
    }

    pub(super) fn set_mode(&self, mode: EndpointMode) {
        let frozen = self.current();
        *lock(&self.behaviour) = Behaviour { mode, frozen };
    }

    pub(super) fn status(&self, address: SocketAddr) -> BundleEndpointStatus {
        let is_spiffe = matches!(self.identity, EndpointIdentity::Spiffe(_));
        BundleEndpointStatus {
            address: address.to_string(),
            profile: self.profile().to_owned(),
            spiffe_id: is_spiffe.then(|| self.id.to_string()),
            mode: self.mode(),
            sequence: self.state.bundle_sequence(),
            refresh_hint: self.refresh_hint.as_secs(),
        }
    }

    fn mode(&self) -> EndpointMode {
        lock(&self.behaviour).mode
    }

    fn current(&self) -> String {
        self.state.bundle_document(self.refresh_hint)
    }

    /// Returns the current document with other members in place of its own.
    fn changed(&self, members: Value) -> String {
        let mut document: Value = serde_json::from_str(&self.current()).unwrap_or_default();
        if let (Some(document), Value::Object(members)) = (document.as_object_mut(), members) {
            document.extend(members);
        }
        document.to_string()
    }

    /// Issues a certificate for the SPIFFE ID of the endpoint, under a CA that nobody knows.
    fn untrusted(&self) -> Result<Leaf, Error> {
        let now = SystemTime::now();
        Ca::new(&self.state.trust_domain, A_DAY, now)?.issue(&self.id, &[], A_DAY, now)
    }

    fn of_another_workload(&self) -> Result<Leaf, Error> {
        let id = format!("{}/another", self.state.trust_domain.id_string());
        let id = SpiffeId::new(&id);
        let id = id.map_err(|error| Error::setting("bundle-endpoint-id", error.to_string()))?;
        self.state.issue_for_endpoint(&id)
    }
}

impl Site for BundleSite {
    fn certificate(&self) -> Result<CertifiedKey, Error> {
        match (self.mode(), &self.identity) {
            (EndpointMode::WrongCertificate, _) => certified(self.untrusted()?),
            (EndpointMode::WrongIdentity, _) => certified(self.of_another_workload()?),
            (_, EndpointIdentity::Web(certificate)) => Ok(certificate.certified()),
            (_, EndpointIdentity::Spiffe(_)) => certified(self.state.issue_for_endpoint(&self.id)?),
        }
    }

    fn get(&self, path: &str, _: Option<&str>) -> (StatusCode, String) {
        if path != "/" {
            return (StatusCode::NOT_FOUND, String::new());
        }
        let behaviour = lock(&self.behaviour);
        let document = match behaviour.mode {
            EndpointMode::NotFound => return (StatusCode::NOT_FOUND, String::new()),
            EndpointMode::Stale => behaviour.frozen.clone(),
            EndpointMode::OldSequence => self.changed(json!({ "spiffe_sequence": 1 })),
            EndpointMode::Empty => self.changed(json!({ "keys": [] })),
            EndpointMode::Garbage => "<html>not a bundle</html>".to_owned(),
            _ => self.current(),
        };
        (StatusCode::OK, document)
    }
}

/// Returns an issued certificate in the form of rustls.
fn certified(leaf: Leaf) -> Result<CertifiedKey, Error> {
    let key = PrivatePkcs8KeyDer::from(leaf.key.to_vec());
    let chain = vec![leaf.certificate.into()];
    CertifiedKey::from_der(chain, key.into(), &aws_lc_rs::default_provider()).map_err(|_| {
        Error::Crypto {
            what: "use our own X.509-SVID",
        }
    })
}
