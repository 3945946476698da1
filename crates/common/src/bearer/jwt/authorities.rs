//! The JWT authorities of one trust domain.

use std::collections::BTreeMap;

use serde_json::Value;
use spiffe::JwtBundle;

use super::{
    algorithm::Algorithm,
    key::{Key, KeyFault},
};

/// The keys of one bundle, each read once.
#[derive(Debug, Default)]
pub(in crate::bearer) struct Authorities {
    /// Sorted by `kid`, so that a token without one meets the same keys in the same order.
    by_id: BTreeMap<String, Result<Key, KeyFault>>,
}

/// The most keys that are tried for a token without `kid`.
pub(super) const MAX_TRIED: usize = 8;

impl Authorities {
    /// Reads the keys of a bundle. A key that can't be used affects itself only.
    pub(super) fn of(bundle: &JwtBundle) -> Self {
        let read = |json: &[u8]| {
            let jwk: Value = serde_json::from_slice(json).map_err(|_| KeyFault::Type)?;
            Key::read(&jwk)
        };
        let authorities = bundle.jwt_authorities();
        let by_id = authorities.map(|one| (one.key_id().to_owned(), read(one.jwk_json())));
        Self {
            by_id: by_id.collect(),
        }
    }

    /// Returns the key of this ID, or the reason why it can't verify `algorithm`; `None` if there is
    /// none.
    pub(super) fn get(&self, key_id: &str, algorithm: Algorithm) -> Option<Result<&Key, KeyFault>> {
        let key = self.by_id.get(key_id)?.as_ref();
        Some(match key {
            Ok(key) if !key.is_for(algorithm) => Err(KeyFault::Algorithm),
            key => key.map_err(|fault| *fault),
        })
    }

    /// Returns the first [`MAX_TRIED`] keys that may verify `algorithm`.
    pub(super) fn of_algorithm(&self, algorithm: Algorithm) -> impl Iterator<Item = &Key> {
        let usable = self.by_id.values().filter_map(|key| key.as_ref().ok());
        usable
            .filter(move |key| key.is_for(algorithm))
            .take(MAX_TRIED)
    }

    /// Returns the keys that can't be used, with the reasons. Keys of other kinds of SVIDs are left out.
    pub(in crate::bearer) fn faults(&self) -> impl Iterator<Item = (&str, KeyFault)> {
        let faults = self.by_id.iter();
        let faults = faults.filter_map(|(id, key)| Some((id.as_str(), *key.as_ref().err()?)));
        faults.filter(|(_, fault)| *fault != KeyFault::OtherSvid)
    }
}
