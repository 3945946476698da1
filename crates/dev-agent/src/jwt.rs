//! The JWT authority: ES256 keys, the tokens that they sign (JWT-SVID §2–§3) and their public
//! halves as JWKs. Keys live in memory only.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::{error::Error, jwk::ec_jwk, random::random_bytes};

/// The two signed parts of a token, for tests that need a token the agent would not issue.
///
/// [`crate::DevAgent::jwt_claims`] makes the parts of a valid token. A test changes them, and
/// [`crate::DevAgent::mint_jwt`] signs them unchecked.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtClaims {
    /// The JOSE header: `alg`, `kid` and `typ` in a valid token.
    pub header: Value,
    /// The claims: `sub`, `aud`, `iat` and `exp` in a valid token.
    pub payload: Value,
}

/// A signing key of the trust domain.
pub(crate) struct JwtKey {
    /// The `kid` of its tokens.
    pub(crate) id: String,
    pair: EcdsaKeyPair,
}

impl JwtKey {
    /// Generates a key with a random ID.
    pub(crate) fn generate() -> Result<Self, Error> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| {
            Error::Crypto {
                what: "make a JWT key",
            }
        })?;
        // A random ID differs from that of every key that is still published.
        let id = URL_SAFE_NO_PAD.encode(random_bytes::<16>()?);
        Ok(Self { id, pair })
    }

    /// Returns the public half. It has no `use`, because readers of plain JWK Sets know no
    /// `jwt-svid`.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = ec_jwk(self.pair.public_key().as_ref());
        jwk["kid"] = self.id.as_str().into();
        jwk
    }

    /// Returns the parts of a JWT-SVID that this key would sign at `now`. The claim `iss` is there
    /// if there is an issuer.
    pub(crate) fn claims(
        &self,
        issuer: Option<&str>,
        subject: &str,
        audience: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> JwtClaims {
        let issued = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut payload = json!({
            "sub": subject,
            "aud": audience,
            "iat": issued,
            "exp": issued + ttl.as_secs(),
        });
        if let Some(issuer) = issuer {
            payload["iss"] = issuer.into();
        }
        JwtClaims {
            header: json!({ "alg": "ES256", "kid": self.id, "typ": "JWT" }),
            payload,
        }
    }

    /// Signs `claims` and returns the token in JWS compact form.
    pub(crate) fn sign(&self, claims: &JwtClaims) -> Result<String, Error> {
        let part = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", part(&claims.header), part(&claims.payload));
        let signature = self
            .pair
            .sign(&SystemRandom::new(), message.as_bytes())
            .map_err(|_| Error::Crypto {
                what: "sign a JWT-SVID",
            })?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

#[cfg(test)]
mod tests {
    use spiffe::{JwtBundle, JwtBundleSet, JwtSvid, TrustDomain};

    use super::*;
    use crate::jwk::jwk_set;

    #[test]
    fn a_token_verifies_against_the_published_key_w101() {
        let key = JwtKey::generate().unwrap();
        let claims = key.claims(
            None,
            "spiffe://example.org/a",
            &["x".to_owned(), "y".to_owned()],
            Duration::from_secs(300),
            SystemTime::now(),
        );
        let token = key.sign(&claims).unwrap();

        let set = jwk_set([key.jwk()].into_iter());
        let domain = TrustDomain::new("example.org").unwrap();
        let mut bundles = JwtBundleSet::new();
        bundles.add_bundle(JwtBundle::from_jwt_authorities(domain, set.as_bytes()).unwrap());
        let svid = JwtSvid::parse_and_validate(&token, &bundles, &["y"]).unwrap();
        assert_eq!(svid.spiffe_id().to_string(), "spiffe://example.org/a");
        assert_eq!(svid.audience(), ["x", "y"]);
    }

    #[test]
    fn header_and_claims_have_only_members_of_the_standard_w107() {
        let key = JwtKey::generate().unwrap();
        let now = UNIX_EPOCH + Duration::from_millis(1_700_000_000_900);
        let claims = key.claims(None, "s", &["a".to_owned()], Duration::from_secs(60), now);
        assert_eq!(
            claims.payload,
            json!({ "sub": "s", "aud": ["a"], "iat": 1_700_000_000, "exp": 1_700_000_060 })
        );
        assert_eq!(
            claims.header,
            json!({ "alg": "ES256", "kid": key.id, "typ": "JWT" })
        );
        let audience = ["a".to_owned()];
        let issuer = Some("https://i.test");
        let claims = key.claims(issuer, "s", &audience, Duration::from_secs(60), now);
        assert_eq!(claims.payload["iss"], "https://i.test");
    }

    #[test]
    fn a_jwk_is_public_and_of_fixed_length_w117() {
        let key = JwtKey::generate().unwrap();
        let jwk = key.jwk();
        let members: Vec<_> = jwk.as_object().unwrap().keys().cloned().collect();
        assert_eq!(
            members,
            ["crv", "kid", "kty", "x", "y"],
            "W118, W120: no use, no alg"
        );
        assert_eq!(jwk["x"].as_str().unwrap().len(), 43);
        assert_eq!(jwk["y"].as_str().unwrap().len(), 43);
        assert_ne!(key.id, JwtKey::generate().unwrap().id);
    }
}
