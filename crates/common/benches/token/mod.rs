//! Keys and the tokens that they sign.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
        RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, VerificationAlgorithm,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use common::bearer::{JwtBundle, JwtBundleSet};
use http::{Request, header::AUTHORIZATION, request::Parts};
use serde_json::{Value, json};
use spiffe::TrustDomain;

/// A function that signs a message.
type Sign = dyn Fn(&[u8]) -> Vec<u8>;

/// A signing key, and its public key in the forms of a bundle and of aws-lc-rs.
pub(crate) struct Key {
    alg: &'static str,
    sign: Box<Sign>,
    jwk: Value,
    pub(crate) public: Vec<u8>,
    pub(crate) algorithm: &'static dyn VerificationAlgorithm,
}

impl Key {
    pub(crate) fn es256() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let public = pair.public_key().as_ref().to_vec();
        let (x, y) = public[1..].split_at(32);
        Self {
            alg: "ES256",
            jwk: json!({ "kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y) }),
            public,
            algorithm: &ECDSA_P256_SHA256_FIXED,
            sign: Box::new(move |message| {
                let signature = pair.sign(&SystemRandom::new(), message);
                signature.unwrap().as_ref().to_vec()
            }),
        }
    }

    /// Returns a key of 2048 bits, the most common size.
    pub(crate) fn rs256() -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let public = pair.public_key().as_ref().to_vec();
        // The DER has a sequence, an integer of 257 bytes, a zero and the modulus.
        let modulus = &public[9..9 + 256];
        Self {
            alg: "RS256",
            jwk: json!({ "kty": "RSA", "n": encode(modulus), "e": "AQAB" }),
            public,
            algorithm: &RSA_PKCS1_2048_8192_SHA256,
            sign: Box::new(move |message| {
                let mut signature = vec![0; pair.public_modulus_len()];
                let random = SystemRandom::new();
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .unwrap();
                signature
            }),
        }
    }

    /// Returns the public key as a JWK with this `kid`.
    pub(crate) fn jwk(&self, kid: &str) -> Value {
        let mut jwk = self.jwk.clone();
        jwk["kid"] = kid.into();
        jwk
    }

    /// Returns a token with these claims.
    pub(crate) fn token(&self, kid: &str, claims: &Value) -> String {
        self.signed(
            &json!({ "alg": self.alg, "kid": kid, "typ": "JWT" }),
            claims,
        )
    }

    /// Returns a token with these claims that names no key.
    pub(crate) fn token_without_kid(&self, claims: &Value) -> String {
        self.signed(&json!({ "alg": self.alg, "typ": "JWT" }), claims)
    }

    fn signed(&self, header: &Value, claims: &Value) -> String {
        let message = format!(
            "{}.{}",
            encode(header.to_string()),
            encode(claims.to_string())
        );
        let signature = (self.sign)(message.as_bytes());
        format!("{message}.{}", encode(signature))
    }
}

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns the signed part of a token, and the signature.
pub(crate) fn parts(token: &str) -> (&str, Vec<u8>) {
    let (message, signature) = token.rsplit_once('.').unwrap();
    (message, URL_SAFE_NO_PAD.decode(signature).unwrap())
}

/// Returns one bundle with `keys`, each under its name.
pub(crate) fn bundle<'k>(keys: impl IntoIterator<Item = (&'k Key, String)>) -> JwtBundleSet {
    let keys = keys.into_iter().map(|(key, kid)| key.jwk(&kid));
    let jwks = json!({ "keys": keys.collect::<Vec<_>>() }).to_string();
    let bundle = JwtBundle::parse(jwks.as_bytes()).unwrap();
    JwtBundleSet::from_iter([(TrustDomain::new("example.org").unwrap(), bundle)])
}

/// Returns the head of a request with a bearer token.
pub(crate) fn head(token: &str) -> Parts {
    let request = Request::get("/").header(AUTHORIZATION, format!("Bearer {token}"));
    request.body(()).unwrap().into_parts().0
}

/// Returns the time in an hour, in seconds since 1970.
pub(crate) fn in_an_hour() -> u64 {
    let then = SystemTime::now() + Duration::from_secs(60 * 60);
    then.duration_since(UNIX_EPOCH).unwrap().as_secs()
}
