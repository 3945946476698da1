//! Warnings of JWT authorities that cannot verify any token here.

use std::collections::BTreeSet;

use serde_json::Value;
use spiffe::{JwtBundleSet, JwtSource};
use tracing::warn;

use crate::sanitize::Sanitized;

/// Warns once of each P-521 key, now and after every change of the bundles, until `source` is closed.
///
/// JWT-SVID §2.1 lists ES512, and the `spiffe` crate cannot verify it, so that its tokens are refused.
/// The warning tells operators the reason before the first such token comes.
pub async fn warn_of_unusable_keys(source: JwtSource) {
    let mut updates = source.updated();
    let mut known = BTreeSet::new();
    loop {
        if let Ok(bundles) = source.bundle_set() {
            for (trust_domain, key_id) in p521_keys(&bundles) {
                if known.insert((trust_domain.clone(), key_id.clone())) {
                    warn!(
                        %trust_domain,
                        key_id = %Sanitized(key_id),
                        "the JWT bundle has a P-521 key: ES512 cannot be verified here, its tokens are refused; issue with P-256 or P-384"
                    );
                }
            }
        }
        if updates.changed().await.is_err() {
            return;
        }
    }
}

/// Returns the trust domain and the `kid` of each P-521 key.
fn p521_keys(bundles: &JwtBundleSet) -> Vec<(String, String)> {
    bundles
        .iter()
        .flat_map(|(trust_domain, bundle)| {
            bundle
                .jwt_authorities()
                .filter(|authority| {
                    serde_json::from_slice::<Value>(authority.jwk_json())
                        .is_ok_and(|jwk| jwk["crv"] == "P-521")
                })
                .map(|authority| (trust_domain.to_string(), authority.key_id().to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use spiffe::{JwtBundle, TrustDomain};

    use super::*;

    #[test]
    fn only_keys_of_the_unsupported_curve_are_found() {
        let jwks = br#"{"keys":[
            {"kty":"EC","crv":"P-521","kid":"unusable"},
            {"kty":"EC","crv":"P-256","kid":"usable"},
            {"kty":"RSA","kid":"usable too"}
        ]}"#;
        let trust_domain = TrustDomain::new("example.org").unwrap();
        let bundle = JwtBundle::from_jwt_authorities(trust_domain, jwks).unwrap();
        assert_eq!(
            p521_keys(&JwtBundleSet::from_iter([bundle])),
            [("example.org".to_owned(), "unusable".to_owned())]
        );
    }
}
