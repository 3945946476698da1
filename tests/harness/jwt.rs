//! Makes tokens with any header and payload, down to the byte, signed by any key.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
        ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
        KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
        RSA_PSS_SHA384, RSA_PSS_SHA512, RsaKeyPair,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::{CLIENT_ID, SERVER_ID};

/// Holds a signing key and its `kid`.
pub struct Key {
    kid: String,
    pair: Pair,
}

enum Pair {
    Ec(EcdsaKeyPair, &'static str),
    Rsa(Box<RsaKeyPair>),
    Ed25519(Ed25519KeyPair),
    Hmac(Vec<u8>),
}

impl Key {
    /// Generates a P-256 key.
    pub fn p256(kid: &str) -> Self {
        Self::ec(kid, &ECDSA_P256_SHA256_FIXED_SIGNING, "P-256")
    }

    /// Generates a P-384 key.
    pub fn p384(kid: &str) -> Self {
        Self::ec(kid, &ECDSA_P384_SHA384_FIXED_SIGNING, "P-384")
    }

    /// Generates a P-521 key.
    pub fn p521(kid: &str) -> Self {
        Self::ec(kid, &ECDSA_P521_SHA512_FIXED_SIGNING, "P-521")
    }

    fn ec(kid: &str, algorithm: &'static EcdsaSigningAlgorithm, curve: &'static str) -> Self {
        let pair = EcdsaKeyPair::generate(algorithm).unwrap();
        Self::new(kid, Pair::Ec(pair, curve))
    }

    /// Generates an RSA key of 2048 bits.
    pub fn rsa(kid: &str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        Self::new(kid, Pair::Rsa(Box::new(pair)))
    }

    /// Generates an Ed25519 key.
    pub fn ed25519(kid: &str) -> Self {
        Self::new(kid, Pair::Ed25519(Ed25519KeyPair::generate().unwrap()))
    }

    /// Makes an HMAC key of a secret.
    pub fn hmac(kid: &str, secret: &[u8]) -> Self {
        Self::new(kid, Pair::Hmac(secret.to_vec()))
    }

    fn new(kid: &str, pair: Pair) -> Self {
        Self {
            kid: kid.to_owned(),
            pair,
        }
    }

    /// Returns the key's `kid`.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Returns the public half as a JWK. The JWK of a secret holds the secret.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Ec(pair, curve) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) })
            }
            Pair::Rsa(_) => json!({ "kty": "RSA", "n": encode(self.modulus()), "e": "AQAB" }),
            Pair::Ed25519(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key()) })
            }
            Pair::Hmac(secret) => json!({ "kty": "oct", "k": encode(secret) }),
        };
        jwk["kid"] = self.kid.as_str().into();
        jwk
    }

    /// Returns the modulus of an RSA key of 2048 bits, from its DER: SEQUENCE, INTEGER of 257
    /// bytes, a zero.
    pub fn modulus(&self) -> &[u8] {
        match &self.pair {
            Pair::Rsa(pair) => &pair.public_key().as_ref()[9..9 + 256],
            _ => panic!("not an RSA key"),
        }
    }

    /// Returns the public key of an RSA key in DER (RFC 8017 A.1.1).
    pub fn public_der(&self) -> &[u8] {
        match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_ref(),
            _ => panic!("not an RSA key"),
        }
    }

    /// Signs `message`. Keys of RSA and HMAC use `alg`.
    pub fn sign(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Ec(pair, _) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Hmac(secret) => {
                let algorithm = match alg {
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                let key = hmac::Key::new(algorithm, secret);
                hmac::sign(&key, message).as_ref().to_vec()
            }
            Pair::Rsa(pair) => {
                let encoding: &dyn aws_lc_rs::signature::RsaEncoding = match alg {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signature)
                    .unwrap();
                signature
            }
        }
    }
}

/// The members of a header or payload, each a name and the JSON text of its value.
type Members = Vec<(String, String)>;

/// Holds a token to be signed. [`Draft::new`] makes a valid one, and each call changes it.
#[derive(Clone)]
pub struct Draft {
    header: Members,
    payload: Members,
}

impl Draft {
    /// Drafts a token from the client to the server that is valid for five minutes, for the key
    /// `kid`.
    pub fn new(alg: &str, kid: &str) -> Self {
        let member = |(name, value): (&str, Value)| (name.to_owned(), value.to_string());
        let now = now();
        Self {
            header: [
                ("alg", alg.into()),
                ("kid", kid.into()),
                ("typ", "JWT".into()),
            ]
            .map(member)
            .to_vec(),
            payload: [
                ("sub", CLIENT_ID.into()),
                ("aud", SERVER_ID.into()),
                ("iat", now.into()),
                ("exp", (now + 300).into()),
            ]
            .map(member)
            .to_vec(),
        }
    }

    /// Sets a header member to this JSON text.
    pub fn head(mut self, name: &str, json: &str) -> Self {
        set(&mut self.header, name, json);
        self
    }

    /// Adds a header member, even if one of that name is there.
    pub fn head_again(mut self, name: &str, json: &str) -> Self {
        self.header.push((name.to_owned(), json.to_owned()));
        self
    }

    /// Removes a header member.
    pub fn no_head(mut self, name: &str) -> Self {
        self.header.retain(|(member, _)| member != name);
        self
    }

    /// Sets a claim to this JSON text.
    pub fn claim(mut self, name: &str, json: &str) -> Self {
        set(&mut self.payload, name, json);
        self
    }

    /// Adds a claim, even if one of that name is there.
    pub fn claim_again(mut self, name: &str, json: &str) -> Self {
        self.payload.push((name.to_owned(), json.to_owned()));
        self
    }

    /// Removes a claim.
    pub fn no_claim(mut self, name: &str) -> Self {
        self.payload.retain(|(member, _)| member != name);
        self
    }

    /// Returns the text of the header.
    pub fn header(&self) -> String {
        text(&self.header)
    }

    /// Returns the text of the payload.
    pub fn payload(&self) -> String {
        text(&self.payload)
    }

    /// Returns the token, signed by `key` with the algorithm that the header names.
    pub fn sign(&self, key: &Key) -> String {
        let alg = self.header.iter().find(|(name, _)| name == "alg");
        let alg = alg.map_or("", |(_, alg)| alg.trim_matches('"'));
        compact(
            self.header().as_bytes(),
            self.payload().as_bytes(),
            |message| key.sign(alg, message),
        )
    }
}

/// Returns the JWS compact serialization of these bytes.
pub fn compact(header: &[u8], payload: &[u8], sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encode(header), encode(payload));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", encode(signature))
}

/// Encodes as base64url without padding.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Decodes base64url without padding.
pub fn decode(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

/// Returns the seconds since the epoch.
pub fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs().cast_signed()
}

fn set(members: &mut Members, name: &str, json: &str) {
    match members.iter_mut().find(|(member, _)| member == name) {
        Some((_, value)) => json.clone_into(value),
        None => members.push((name.to_owned(), json.to_owned())),
    }
}

fn text(members: &Members) -> String {
    let members: Vec<_> = members
        .iter()
        .map(|(name, value)| format!(r#""{name}":{value}"#))
        .collect();
    format!("{{{}}}", members.join(","))
}
