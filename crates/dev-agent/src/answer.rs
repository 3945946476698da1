//! The messages that callers get, made from one snapshot of the state; no I/O.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use crate::error::Error;
use crate::pb;
use crate::state::{Identity, Snapshot};

/// The caller's X.509-SVIDs, the default first (Workload API §5.2.1).
pub(crate) fn x509_svids(snapshot: &Snapshot, identities: &[&Identity]) -> pb::X509svidResponse {
    let mut hints = Hints::default();
    pb::X509svidResponse {
        svids: identities
            .iter()
            .map(|identity| pb::X509svid {
                spiffe_id: identity.entry.id().to_string(),
                x509_svid: identity.leaf.certificate.clone(),
                x509_svid_key: identity.leaf.key.to_vec(),
                bundle: snapshot.x509_bundle.clone(),
                hint: hints.next(identity.entry.hint()),
            })
            .collect(),
        crl: Vec::new(),
        federated_bundles: snapshot.federated_x509.clone(),
    }
}

/// The X.509 bundles of all trust domains (Workload API §5.2.2).
pub(crate) fn x509_bundles(snapshot: &Snapshot, _: &[&Identity]) -> pb::X509BundlesResponse {
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

/// The JWT bundles of all trust domains (Workload API §6.2.2).
pub(crate) fn jwt_bundles(snapshot: &Snapshot, _: &[&Identity]) -> pb::JwtBundlesResponse {
    pb::JwtBundlesResponse {
        bundles: snapshot.jwt_bundles.clone(),
    }
}

/// A fresh JWT-SVID for each of these identities (Workload API §6.2.1).
pub(crate) fn jwt_svids(
    snapshot: &Snapshot,
    identities: &[&Identity],
    audience: &[String],
    default_ttl: Duration,
) -> Result<pb::JwtsvidResponse, Error> {
    let mut hints = Hints::default();
    let now = SystemTime::now();
    let mut svids = Vec::new();
    for identity in identities {
        let spiffe_id = identity.entry.id().to_string();
        let ttl = identity.entry.jwt_ttl().unwrap_or(default_ttl);
        let claims = snapshot.jwt_key.claims(&spiffe_id, audience, ttl, now);
        svids.push(pb::Jwtsvid {
            svid: snapshot.jwt_key.sign(&claims)?,
            hint: hints.next(identity.entry.hint()),
            spiffe_id,
        });
    }
    Ok(pb::JwtsvidResponse { svids })
}

/// Two SVIDs of one answer must not have the same hint: the first keeps it.
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
