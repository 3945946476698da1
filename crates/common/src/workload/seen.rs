//! The times since which trust domains have their authorities.

use std::{collections::BTreeMap, time::SystemTime};

use spiffe::TrustDomain;

use super::fault::Kind;

/// The time since which each authority is there.
#[derive(Debug, Default)]
pub(super) struct Seen(BTreeMap<(Kind, TrustDomain, String), SystemTime>);

impl Seen {
    /// Returns the times when exactly these authorities are there at `now`.
    pub(super) fn then(
        &self,
        authorities: Vec<(Kind, TrustDomain, String)>,
        now: SystemTime,
    ) -> Self {
        let mut seen = BTreeMap::new();
        for authority in authorities {
            let since = self.0.get(&authority).copied();
            seen.insert(authority, since.unwrap_or(now));
        }
        Self(seen)
    }

    /// Returns the time since which an authority is there, if it is followed.
    pub(super) fn since(&self, kind: Kind, domain: &TrustDomain, name: &str) -> Option<SystemTime> {
        let key = (kind, domain.clone(), name.to_owned());
        self.0.get(&key).copied()
    }
}
