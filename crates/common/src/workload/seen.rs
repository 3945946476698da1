//! The times since which trust domains have their authorities.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use spiffe::TrustDomain;

use super::monitor::{Kind, Overview};

/// The most trust domains of a kind whose authorities are followed.
const MAX_DOMAINS: usize = 100;

/// The time since which each authority is there.
#[derive(Debug, Default)]
pub(super) struct Seen(BTreeMap<(Kind, TrustDomain, String), SystemTime>);

impl Seen {
    /// Returns the times for an overview that comes at `now` after `before`.
    pub(super) fn after(before: &Overview, next: &Overview, now: SystemTime) -> Arc<Self> {
        if Arc::ptr_eq(&before.x509, &next.x509) && Arc::ptr_eq(&before.jwt, &next.jwt) {
            return Arc::clone(&before.seen);
        }
        let mut seen = BTreeMap::new();
        for kind in [Kind::X509, Kind::Jwt] {
            let domains = next.trusted(kind).unwrap_or_default();
            for domain in domains.into_iter().take(MAX_DOMAINS) {
                for (name, _) in next.names(kind, domain) {
                    let key = (kind, domain.clone(), name);
                    let since = before.seen.0.get(&key).copied();
                    seen.insert(key, since.unwrap_or(now));
                }
            }
        }
        Arc::new(Self(seen))
    }

    /// Returns the time since which an authority is there, if it is followed.
    pub(super) fn since(&self, kind: Kind, domain: &TrustDomain, name: &str) -> Option<SystemTime> {
        let key = (kind, domain.clone(), name.to_owned());
        self.0.get(&key).copied()
    }
}
