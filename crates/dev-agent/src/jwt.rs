//! The JWT side of the authority: ES256 keys, the tokens that they sign
//! (JWT-SVID §2–§3) and their public halves as JWKs (RFC 7517, RFC 7518 §6.2).
//! Keys live in memory only.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::authority::random_bytes;
use crate::error::Error;

/// The two parts of a token that get signed, for tests that need a token the
/// agent would not issue. [`crate::DevAgent::jwt_claims`] makes a good one to
/// start from; what is in them when they are signed is signed as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtClaims {
    /// The JOSE header: `alg`, `kid` and `typ` in a good token.
    pub header: Value,
    /// The claims: `sub`, `aud`, `iat` and `exp` in a good token.
    pub payload: Value,
}

/// One signing key of the trust domain.
pub(crate) struct JwtKey {
    /// The `kid` of its tokens.
    pub(crate) id: String,
    pair: EcdsaKeyPair,
}

impl JwtKey {
    pub(crate) fn generate() -> Result<Self, Error> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| {
            Error::Crypto {
                what: "make a JWT key",
            }
        })?;
        // Random, so that a new key never has the name of one that is still published.
        let id = URL_SAFE_NO_PAD.encode(random_bytes::<16>()?);
        Ok(Self { id, pair })
    }

    /// The public half, without `use`: readers of plain JWK Sets know no `jwt-svid`.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = ec_jwk(self.pair.public_key().as_ref());
        jwk["kid"] = self.id.as_str().into();
        jwk
    }

    /// The parts of a JWT-SVID that this key would sign now.
    pub(crate) fn claims(
        &self,
        subject: &str,
        audience: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> JwtClaims {
        let issued = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        JwtClaims {
            header: json!({ "alg": "ES256", "kid": self.id, "typ": "JWT" }),
            payload: json!({
                "sub": subject,
                "aud": audience,
                "iat": issued,
                "exp": issued + ttl.as_secs(),
            }),
        }
    }

    /// The token in JWS compact form.
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

/// The JWK of a P-256 key, given as an uncompressed point: 4, x, y (SEC 1 §2.3.3).
pub(crate) fn ec_jwk(point: &[u8]) -> Value {
    json!({
        "kty": "EC",
        "crv": "P-256",
        "x": URL_SAFE_NO_PAD.encode(&point[1..33]),
        "y": URL_SAFE_NO_PAD.encode(&point[33..65]),
    })
}

/// A JWK Set (RFC 7517 §5) of these keys.
pub(crate) fn jwk_set(keys: impl Iterator<Item = Value>) -> String {
    json!({ "keys": keys.collect::<Vec<_>>() }).to_string()
}

#[cfg(test)]
mod tests {
    use spiffe::{JwtBundle, JwtBundleSet, JwtSvid, TrustDomain};

    use super::*;

    #[test]
    fn w101_a_token_verifies_against_the_published_key() {
        let key = JwtKey::generate().unwrap();
        let claims = key.claims(
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
    fn w107_header_and_claims_are_the_few_that_the_standard_names() {
        let key = JwtKey::generate().unwrap();
        let now = UNIX_EPOCH + Duration::from_millis(1_700_000_000_900);
        let claims = key.claims("s", &["a".to_owned()], Duration::from_secs(60), now);
        assert_eq!(
            claims.payload,
            json!({ "sub": "s", "aud": ["a"], "iat": 1_700_000_000, "exp": 1_700_000_060 })
        );
        assert_eq!(
            claims.header,
            json!({ "alg": "ES256", "kid": key.id, "typ": "JWT" })
        );
    }

    #[test]
    fn w117_a_jwk_is_public_and_of_fixed_length() {
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
