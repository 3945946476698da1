//! Warnings of JWT authorities that cannot verify any token.

use std::collections::BTreeSet;

use spiffe::{JwtBundleSet, JwtSource};
use tracing::warn;

use super::jwt::Authorities;
use crate::sanitize::Sanitized;

/// Warns once of each key that cannot be used, now and after every change of the bundles, until
/// `source` is closed. Such a key affects itself only: the other keys of its bundle verify tokens.
pub async fn warn_of_unusable_keys(source: JwtSource) {
    let mut updates = source.updated();
    let mut known = BTreeSet::new();
    loop {
        if let Ok(bundles) = source.bundle_set() {
            for [trust_domain, key_id, fault] in unusable_keys(&bundles) {
                let is_new = known.insert([trust_domain.clone(), key_id.clone(), fault.clone()]);
                if is_new {
                    warn!(
                        %trust_domain,
                        key_id = %Sanitized(key_id),
                        "the JWT bundle has a key that cannot be used: {fault}; tokens by it are refused"
                    );
                }
            }
        }
        if updates.changed().await.is_err() {
            return;
        }
    }
}

/// Returns the trust domain, the `kid` and the fault of each key that cannot be used. Keys of other
/// kinds of SVIDs are not faults.
fn unusable_keys(bundles: &JwtBundleSet) -> Vec<[String; 3]> {
    let mut found = Vec::new();
    for (trust_domain, bundle) in bundles.iter() {
        let authorities = Authorities::of(bundle);
        for (key_id, fault) in authorities.faults() {
            found.push([
                trust_domain.to_string(),
                key_id.to_owned(),
                fault.to_string(),
            ]);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use spiffe::{JwtBundle, TrustDomain};

    use super::*;

    #[test]
    fn keys_that_cannot_be_used_are_found_with_their_faults() {
        let jwks = br#"{"keys":[
            {"kty":"OKP","crv":"Ed25519","kid":"other type"},
            {"kty":"EC","crv":"secp256k1","kid":"other curve"},
            {"kty":"EC","crv":"P-256","kid":"encryption","use":"enc"},
            {"kty":"EC","crv":"P-256","kid":"other SVID","use":"x509-svid"},
            {"kty":"EC","crv":"P-256","x":"AA","y":"AA","kid":"short"}
        ]}"#;
        let trust_domain = TrustDomain::new("example.org").unwrap();
        let bundle = JwtBundle::from_jwt_authorities(trust_domain, jwks).unwrap();
        let found = unusable_keys(&JwtBundleSet::from_iter([bundle]));
        let found: Vec<_> = found
            .iter()
            .map(|[_, id, fault]| (id.as_str(), fault.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("encryption", "it is not for JWT-SVID signatures"),
                ("other curve", "its key type is not supported"),
                ("other type", "its key type is not supported"),
                ("short", "its x is invalid"),
            ]
        );
    }
}
