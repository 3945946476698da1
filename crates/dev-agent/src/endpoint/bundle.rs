//! The bundle endpoint (SPIFFE Federation §5), and the ways in which it can misbehave.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use http::StatusCode;
use rustls::{crypto::aws_lc_rs, pki_types::PrivatePkcs8KeyDer, sign::CertifiedKey};
use serde_json::{Value, json};
use spiffe::SpiffeId;

use super::{
    server::Site,
    settings::{BundleEndpoint, EndpointIdentity, EndpointMode, default_id},
};
use crate::{
    authority::{Ca, Leaf},
    error::Error,
    lock::lock,
    state::State,
    status::BundleEndpointStatus,
};

/// The life of a CA that nobody trusts.
const A_DAY: Duration = Duration::from_secs(24 * 3600);

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
