//! The part of the state that changes, and the two views of it: a [`Snapshot`] for the RPCs and a
//! [`Status`] for people.

use std::{collections::HashMap, path::Path, sync::Arc, time::SystemTime};

use serde_json::Value;
use spiffe::{JwtBundle, JwtBundleSet, TrustDomain};

use super::{
    published::Published,
    snapshot::{ActiveEntry, Snapshot},
};
use crate::{
    authority::Ca,
    error::Error,
    federation::FederatedBundle,
    jwk::jwk_set,
    jwt::JwtKey,
    keyring::Keyring,
    status::{CaStatus, EntryStatus, Expiry, JwtKeyStatus, KeyUse, Phase, Status},
};

pub(super) struct Contents {
    pub(super) phase: Phase,
    pub(super) registered: Vec<Registered>,
    pub(super) cas: Keyring<Ca>,
    pub(super) jwt_keys: Keyring<JwtKey>,
    pub(super) federated: Vec<FederatedBundle>,
    /// The own bundle, as other trust domains get it.
    pub(super) published: Published,
}

pub(super) struct Registered {
    pub(super) active: ActiveEntry,
    pub(super) withdrawn: bool,
}

impl Contents {
    /// Publishes the own keys, if they have changed.
    pub(super) fn publish(&mut self) {
        let with_use = |mut jwk: Value, usage: &str| {
            jwk["use"] = usage.into();
            jwk
        };
        let roots = self.cas.published();
        let roots = roots.map(|ca| with_use(ca.jwk(), "x509-svid"));
        let jwt = self.jwt_keys.published();
        let jwt = jwt.map(|key| with_use(key.jwk(), "jwt-svid"));
        self.published.update(roots.chain(jwt).collect());
    }

    /// Returns the snapshot that answers are made from. `own` is the agent's trust domain.
    pub(super) fn snapshot(&self, own: &TrustDomain) -> Result<Snapshot, Error> {
        let own_jwks = jwk_set(self.jwt_keys.published().map(JwtKey::jwk));
        let mut federated_x509 = HashMap::new();
        let mut jwks = vec![(own, own_jwks)];
        for bundle in &self.federated {
            let x509 = bundle.x509_bundle();
            // An empty value is not a bundle (Workload API §4.4), so the member is left out.
            if !x509.is_empty() {
                federated_x509.insert(bundle.trust_domain().id_string(), x509);
            }
            jwks.push((bundle.trust_domain(), jwk_set(bundle.jwks())));
        }
        let mut jwt_validators = JwtBundleSet::new();
        for (domain, jwks) in &jwks {
            let bundle = JwtBundle::from_jwt_authorities((*domain).clone(), jwks.as_bytes())
                .map_err(|_| Error::Crypto {
                    what: "read our own JWK Set",
                })?;
            jwt_validators.add_bundle(bundle);
        }
        Ok(Snapshot {
            phase: self.phase,
            trust_domain: own.clone(),
            entries: self
                .registered
                .iter()
                .filter(|registered| !registered.withdrawn)
                .map(|registered| registered.active.clone())
                .collect(),
            x509_bundle: self.cas.published().flat_map(Ca::der).copied().collect(),
            federated_x509,
            jwt_bundles: jwks
                .into_iter()
                .map(|(domain, jwks)| (domain.id_string(), jwks.into_bytes()))
                .collect(),
            jwt_validators,
            jwt_key: Arc::clone(self.jwt_keys.current()),
        })
    }

    /// Returns the status of the agent of trust domain `own` at `socket`.
    pub(super) fn status(&self, own: &TrustDomain, socket: &Path, open_streams: usize) -> Status {
        let now = SystemTime::now();
        let ca = |(ca, key_use): (&Ca, KeyUse)| CaStatus {
            name: ca.name.clone(),
            key_use,
            expiry: Expiry::new(ca.not_after, now),
        };
        let jwt_key = |(key, key_use): (&JwtKey, KeyUse)| JwtKeyStatus {
            kid: key.id.clone(),
            key_use,
        };
        let federated = self.federated.iter().map(FederatedBundle::trust_domain);
        Status {
            phase: self.phase,
            trust_domain: own.to_string(),
            socket: socket.display().to_string(),
            open_streams,
            entries: self.registered.iter().map(|r| r.status(now)).collect(),
            cas: self.cas.uses().map(ca).collect(),
            jwt_keys: self.jwt_keys.uses().map(jwt_key).collect(),
            federated: federated.map(TrustDomain::id_string).collect(),
            partners: Vec::new(),
            bundle_endpoint: None,
            oidc_endpoint: None,
        }
    }
}

impl Registered {
    fn status(&self, now: SystemTime) -> EntryStatus {
        let ActiveEntry { entry, leaf } = &self.active;
        EntryStatus {
            spiffe_id: entry.id().to_string(),
            selectors: entry.selectors().iter().map(ToString::to_string).collect(),
            withdrawn: self.withdrawn,
            serial: leaf.serial.clone(),
            expiry: Expiry::new(leaf.not_after, now),
        }
    }
}
