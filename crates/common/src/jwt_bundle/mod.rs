//! JWT bundles, read key by key (SPIFFE Trust Domain and Bundle §4, Workload API §6.2.2).
//!
//! - `key`, `algorithm`: a key, which is read once for each bundle

mod algorithm;
mod key;

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use serde_json::Value;
use spiffe::{BundleSource, TrustDomain};

pub(crate) use self::{
    algorithm::Algorithm,
    key::{Key, KeyFault},
};
use crate::sanitize::Sanitized;

/// The JWT authorities of one trust domain, each read once. An entry that cannot be used affects itself
/// only.
#[derive(Debug, Default, PartialEq)]
pub struct JwtBundle {
    /// The keys by `kid`. They are sorted, so that a token without `kid` is always tried with the
    /// same keys.
    by_id: BTreeMap<String, Result<Key, KeyFault>>,
    /// The entries without a name, each with its index in the document.
    nameless: Vec<(usize, KeyFault)>,
}

/// The reason why a document is not a JWT bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtBundleFault {
    /// The document has no bytes.
    #[error("it is empty")]
    Empty,
    /// The document is not a JSON object.
    #[error("it is not a JSON object")]
    NotAnObject,
    /// The document has no `keys`, or they are not an array (Bundle §4.1.3).
    #[error("it has no array of keys")]
    NoKeys,
}

/// The JWT bundles of several trust domains, which do not change.
#[derive(Clone, Debug, Default)]
pub struct JwtBundleSet {
    bundles: BTreeMap<TrustDomain, Arc<JwtBundle>>,
}

/// The most keys that are tried for a token without `kid`.
pub(crate) const MAX_TRIED: usize = 8;

impl JwtBundle {
    /// Reads a JWK Set. A set without a key is a bundle that verifies nothing (Bundle §4.1.3).
    ///
    /// # Errors
    /// Fails when the document is not a JWK Set. A key that cannot be used is not an error.
    pub fn parse(document: &[u8]) -> Result<Self, JwtBundleFault> {
        if document.is_empty() {
            return Err(JwtBundleFault::Empty);
        }
        let document: Value =
            serde_json::from_slice(document).map_err(|_| JwtBundleFault::NotAnObject)?;
        let members = document.as_object().ok_or(JwtBundleFault::NotAnObject)?;
        let keys = members.get("keys").and_then(Value::as_array);
        let mut bundle = Self::default();
        for (index, jwk) in keys.ok_or(JwtBundleFault::NoKeys)?.iter().enumerate() {
            bundle.add(index, jwk);
        }
        Ok(bundle)
    }

    fn add(&mut self, index: usize, jwk: &Value) {
        match jwk.get("kid") {
            Some(Value::String(key_id)) => {
                self.by_id.insert(key_id.clone(), Key::read(jwk));
            }
            // A key of another kind is not used here, so that its name does not matter.
            _ if is_of_another_kind(jwk) => {}
            _ => self.nameless.push((index, KeyFault::Member("kid"))),
        }
    }

    /// Returns the IDs of the keys that can be used.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        let usable = self.by_id.iter().filter(|(_, key)| key.is_ok());
        usable.map(|(key_id, _)| key_id.as_str())
    }

    /// Returns the key of this ID, or the reason why it can't verify `algorithm`. Returns `None` for
    /// an unknown ID.
    pub(crate) fn get(&self, key_id: &str, algorithm: Algorithm) -> Option<Result<&Key, KeyFault>> {
        let key = self.by_id.get(key_id)?.as_ref();
        Some(match key {
            Ok(key) if !key.is_for(algorithm) => Err(KeyFault::Algorithm),
            key => key.map_err(|fault| *fault),
        })
    }

    /// Returns the first [`MAX_TRIED`] keys that may verify `algorithm`.
    pub(crate) fn of_algorithm(&self, algorithm: Algorithm) -> impl Iterator<Item = &Key> {
        let usable = self.by_id.values().filter_map(|key| key.as_ref().ok());
        usable
            .filter(move |key| key.is_for(algorithm))
            .take(MAX_TRIED)
    }

    pub(crate) fn id_of(&self, key: &Key) -> Option<&str> {
        let is_it = |known: &(&String, &Result<Key, KeyFault>)| {
            known.1.as_ref().is_ok_and(|known| std::ptr::eq(known, key))
        };
        let (key_id, _) = self.by_id.iter().find(is_it)?;
        Some(key_id)
    }

    /// Returns the names of the entries that cannot be used, with the reasons. Keys of other kinds of
    /// SVIDs are not among them.
    pub(crate) fn faults(&self) -> impl Iterator<Item = (String, KeyFault)> {
        let named = self.by_id.iter().filter_map(|(key_id, key)| {
            let fault = *key.as_ref().err()?;
            Some((format!("{:?}", Sanitized(key_id)), fault))
        });
        let nameless = self.nameless.iter();
        let nameless = nameless.map(|(index, fault)| (format!("entry {}", index + 1), *fault));
        named
            .chain(nameless)
            .filter(|(_, fault)| *fault != KeyFault::OtherSvid)
    }
}

/// Returns whether no JWT-SVID is ever verified with a key of this `kty` or `use`.
fn is_of_another_kind(jwk: &Value) -> bool {
    let is_foreign_type = match jwk.get("kty") {
        Some(Value::String(kty)) => kty != "EC" && kty != "RSA",
        _ => false,
    };
    let is_foreign_use = match jwk.get("use") {
        Some(Value::String(usage)) => usage != "sig" && usage != "jwt-svid",
        _ => false,
    };
    is_foreign_type || is_foreign_use
}

impl JwtBundleSet {
    /// Returns the bundle of a trust domain.
    #[must_use]
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&Arc<JwtBundle>> {
        self.bundles.get(trust_domain)
    }

    /// Returns the bundles by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = (&TrustDomain, &Arc<JwtBundle>)> {
        self.bundles.iter()
    }
}

impl FromIterator<(TrustDomain, JwtBundle)> for JwtBundleSet {
    fn from_iter<I: IntoIterator<Item = (TrustDomain, JwtBundle)>>(bundles: I) -> Self {
        let bundles = bundles.into_iter();
        Self {
            bundles: bundles
                .map(|(domain, bundle)| (domain, Arc::new(bundle)))
                .collect(),
        }
    }
}

impl BundleSource for JwtBundleSet {
    type Item = JwtBundle;
    type Error = Infallible;

    fn bundle_for_trust_domain(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Option<Arc<JwtBundle>>, Infallible> {
        Ok(self.get(trust_domain).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The base point of P-256, which is a point like any other.
    const X: &str = "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY";
    const Y: &str = "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU";

    fn read(entries: &[&str]) -> JwtBundle {
        let good = format!(r#"{{"kty":"EC","crv":"P-256","kid":"good","x":"{X}","y":"{Y}"}}"#);
        let entries = [&[good.as_str()], entries].concat().join(",");
        JwtBundle::parse(format!(r#"{{"keys":[{entries}]}}"#).as_bytes()).unwrap()
    }

    /// SPIRE writes the keys of a bundle in any order.
    #[test]
    fn bundles_are_equal_if_they_have_the_same_keys_in_any_order() {
        let key = |id: &str, more: &str| {
            format!(r#"{{"kty":"EC","crv":"P-256","kid":"{id}","x":"{X}","y":"{Y}"{more}}}"#)
        };
        let (a, b) = (key("a", ""), key("b", ""));
        let before = read(&[&a, &b]);
        assert_eq!(read(&[&b, &a]), before);
        for others in [
            &[&a] as &[&String],
            &[&a, &key("c", "")],
            &[&a, &key("b", r#","use":"x509-svid""#)],
            &[&a, &key("b", r#","alg":"ES384""#)],
        ] {
            let others: Vec<_> = others.iter().map(|one| one.as_str()).collect();
            assert_ne!(read(&others), before, "{others:?}");
        }
    }

    #[test]
    fn unusable_entries_are_left_out_one_by_one_j164_j165() {
        for (entry, fault) in [
            (
                r#"{"kty":"OKP","crv":"Ed25519","kid":"a"}"#,
                Some(r#""a": its key type is not supported"#),
            ),
            (
                r#"{"kty":"AKP","kid":"a"}"#,
                Some(r#""a": its key type is not supported"#),
            ),
            (r#"{"kty":7,"kid":"a"}"#, Some(r#""a": its kty is invalid"#)),
            (
                r#"{"kty":"EC","crv":"secp256k1","kid":"a"}"#,
                Some(r#""a": its key type is not supported"#),
            ),
            (
                r#"{"kty":"EC","crv":"P-256","kid":"a","x":"AA","y":"AA"}"#,
                Some(r#""a": its x is invalid"#),
            ),
            (
                r#"{"kty":"EC","crv":"P-256","kid":"a","use":"enc"}"#,
                Some(r#""a": it is not for JWT-SVID signatures"#),
            ),
            (
                r#"{"kty":"EC","crv":"P-256","kid":"a","use":"future"}"#,
                Some(r#""a": it is not for JWT-SVID signatures"#),
            ),
            (
                r#"{"kty":"EC","kid":"a","use":["sig"]}"#,
                Some(r#""a": its use is invalid"#),
            ),
            (r#"{"kty":"EC","kid":"a","use":"x509-svid"}"#, None),
            (r#"{"kty":"EC","kid":"a","use":"wit-svid"}"#, None),
            (
                r#"{"kty":"EC","crv":"P-256"}"#,
                Some("entry 2: its kid is invalid"),
            ),
            (
                r#"{"kty":"RSA","kid":1}"#,
                Some("entry 2: its kid is invalid"),
            ),
            (
                r#"{"kty":"RSA","kid":null}"#,
                Some("entry 2: its kid is invalid"),
            ),
            ("7", Some("entry 2: its kid is invalid")),
            // An entry of another kind is not a fault, although it has no name.
            (r#"{"kty":"AKP"}"#, None),
            (r#"{"kty":"EC","use":"x509-svid"}"#, None),
        ] {
            let bundle = read(&[entry]);
            let ids: Vec<_> = bundle.key_ids().collect();
            assert_eq!(ids, ["good"], "{entry}");
            let mut faults = bundle.faults();
            let found = faults
                .next()
                .map(|(name, fault)| format!("{name}: {fault}"));
            assert_eq!(found.as_deref(), fault, "{entry}");
            assert!(faults.next().is_none(), "{entry}");
        }
    }

    #[test]
    fn documents_that_are_not_key_sets_are_faults_j163() {
        use JwtBundleFault::{Empty, NoKeys, NotAnObject};
        for (document, fault) in [
            ("", Empty),
            ("{}", NoKeys),
            (r#"{"keys":null}"#, NoKeys),
            (r#"{"keys":{}}"#, NoKeys),
            ("[]", NotAnObject),
            ("garbage", NotAnObject),
            (r#"{"keys":[]"#, NotAnObject),
        ] {
            let found = JwtBundle::parse(document.as_bytes()).unwrap_err();
            assert_eq!(found, fault, "{document}");
        }
        let empty = JwtBundle::parse(br#"{"keys":[]}"#).unwrap();
        assert_eq!(empty.key_ids().count(), 0, "J162: no key verifies anything");
    }
}
