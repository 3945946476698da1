//! Warnings of JWT authorities that cannot verify any token.

use std::{collections::BTreeSet, sync::Arc};

use spiffe::{BundleSource, JwtBundle, JwtBundleSet, JwtSource};
use tracing::warn;

use super::{authenticator::Authenticator, jwt::Validator};
use crate::sanitize::Sanitized;

impl Authenticator<JwtSource> {
    /// Reads the keys of all bundles before a token needs them, now and after every change, until the
    /// source is closed. Warns once of each key that cannot be used. Such a key affects itself only: the
    /// other keys of its bundle verify tokens.
    pub async fn watch_keys(self: Arc<Self>) {
        let source = self.validator().bundles();
        let mut updates = source.updated();
        let mut known = BTreeSet::new();
        loop {
            if let Ok(bundles) = source.bundle_set() {
                for unusable in unusable_keys(self.validator(), &bundles) {
                    if known.insert(unusable.clone()) {
                        let [trust_domain, key_id, fault] = unusable;
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
}

/// Returns the trust domain, the `kid` and the fault of each key that cannot be used. Keys of other
/// kinds of SVIDs are not faults.
fn unusable_keys<B>(validator: &Validator<B>, bundles: &JwtBundleSet) -> Vec<[String; 3]>
where
    B: BundleSource<Item = JwtBundle>,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let mut found = Vec::new();
    for (trust_domain, _) in bundles.iter() {
        // The bundle may have gone meanwhile.
        let Ok((_, authorities)) = validator.authorities(trust_domain) else {
            continue;
        };
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
    use spiffe::TrustDomain;

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
        let bundles = JwtBundleSet::from_iter([bundle]);
        let found = unusable_keys(&Validator::new(bundles.clone()), &bundles);
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
