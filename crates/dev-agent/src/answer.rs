//! The messages that callers get. Each is made from one snapshot of the state, without I/O.

use std::{collections::HashSet, time::SystemTime};

use crate::{
    config::Config,
    error::Error,
    pb,
    state::{ActiveEntry, Snapshot},
};

/// Returns the caller's X.509-SVIDs, the default first (Workload API §5.2.1).
pub(crate) fn x509_svids(snapshot: &Snapshot, entries: &[&ActiveEntry]) -> pb::X509svidResponse {
    let mut hints = Hints::default();
    pb::X509svidResponse {
        svids: entries
            .iter()
            .map(|active| pb::X509svid {
                spiffe_id: active.entry.id().to_string(),
                x509_svid: active.leaf.certificate.clone(),
                x509_svid_key: active.leaf.key.to_vec(),
                bundle: snapshot.x509_bundle.clone(),
                hint: hints.next(active.entry.hint()),
            })
            .collect(),
        crl: Vec::new(),
        federated_bundles: snapshot.federated_x509.clone(),
    }
}

/// Returns the X.509 bundles of all trust domains (Workload API §5.2.2).
pub(crate) fn x509_bundles(snapshot: &Snapshot, _: &[&ActiveEntry]) -> pb::X509BundlesResponse {
    let mut bundles = snapshot.federated_x509.clone();
    bundles.insert(
        snapshot.trust_domain.id_string(),
        snapshot.x509_bundle.clone(),
    );
    pb::X509BundlesResponse {
        crl: Vec::new(),
        bundles,
    }
}

/// Returns the JWT bundles of all trust domains (Workload API §6.2.2).
pub(crate) fn jwt_bundles(snapshot: &Snapshot, _: &[&ActiveEntry]) -> pb::JwtBundlesResponse {
    pb::JwtBundlesResponse {
        bundles: snapshot.jwt_bundles.clone(),
    }
}

/// Issues a JWT-SVID for each of these entries (Workload API §6.2.1).
pub(crate) fn jwt_svids(
    snapshot: &Snapshot,
    entries: &[&ActiveEntry],
    audience: &[String],
    config: &Config,
) -> Result<pb::JwtsvidResponse, Error> {
    let mut hints = Hints::default();
    let now = SystemTime::now();
    let mut svids = Vec::new();
    for active in entries {
        let spiffe_id = active.entry.id().to_string();
        let ttl = active.entry.jwt_ttl().unwrap_or(config.jwt_ttl);
        let issuer = config.jwt_issuer.as_deref();
        let key = &snapshot.jwt_key;
        let claims = key.claims(issuer, &spiffe_id, audience, ttl, now);
        svids.push(pb::Jwtsvid {
            svid: key.sign(&claims)?,
            hint: hints.next(active.entry.hint()),
            spiffe_id,
        });
    }
    Ok(pb::JwtsvidResponse { svids })
}

/// The hints of one answer. Two SVIDs must not have the same hint, so only the first keeps it.
#[derive(Default)]
struct Hints<'a>(HashSet<&'a str>);

impl<'a> Hints<'a> {
    fn next(&mut self, hint: &'a str) -> String {
        if self.0.insert(hint) {
            hint.to_owned()
        } else {
            String::new()
        }
    }
}
