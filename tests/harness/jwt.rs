//! Tokens as a test wants them: any header and payload, down to the byte, signed by any key.

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

/// A signing key and the `kid` that it goes by.
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
    /// A P-256 key.
    pub fn p256(kid: &str) -> Self {
        Self::ec(kid, &ECDSA_P256_SHA256_FIXED_SIGNING, "P-256")
    }

    /// A P-384 key.
    pub fn p384(kid: &str) -> Self {
        Self::ec(kid, &ECDSA_P384_SHA384_FIXED_SIGNING, "P-384")
    }

    /// A P-521 key.
    pub fn p521(kid: &str) -> Self {
        Self::ec(kid, &ECDSA_P521_SHA512_FIXED_SIGNING, "P-521")
    }

    fn ec(kid: &str, algorithm: &'static EcdsaSigningAlgorithm, curve: &'static str) -> Self {
        let pair = EcdsaKeyPair::generate(algorithm).unwrap();
        Self::new(kid, Pair::Ec(pair, curve))
    }

    /// An RSA key of 2048 bits.
    pub fn rsa(kid: &str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        Self::new(kid, Pair::Rsa(Box::new(pair)))
    }

    /// An Ed25519 key.
    pub fn ed25519(kid: &str) -> Self {
        Self::new(kid, Pair::Ed25519(Ed25519KeyPair::generate().unwrap()))
    }

    /// A secret for HS256.
    pub fn hmac(kid: &str, secret: &[u8]) -> Self {
        Self::new(kid, Pair::Hmac(secret.to_vec()))
    }

    fn new(kid: &str, pair: Pair) -> Self {
        Self {
            kid: kid.to_owned(),
            pair,
        }
    }

    /// What it goes by.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public half as a JWK (of a secret, the secret).
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

    /// Of an RSA key of 2048 bits, as it stands in its DER: SEQUENCE, INTEGER of 257 bytes, a zero.
    pub fn modulus(&self) -> &[u8] {
        match &self.pair {
            Pair::Rsa(pair) => &pair.public_key().as_ref()[9..9 + 256],
            _ => panic!("not an RSA key"),
        }
    }

    /// The public key in DER (of an RSA key: RFC 8017 A.1.1).
    pub fn public_der(&self) -> &[u8] {
        match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_ref(),
            _ => panic!("not an RSA key"),
        }
    }

    /// The signature of `message`; `alg` matters to an RSA key only.
    pub fn sign(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Ec(pair, _) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Hmac(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
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

/// The members of a header or payload: names and values as the JSON text that they shall be.
type Members = Vec<(String, String)>;

/// A token in the making. [`Draft::new`] makes a good one; each call changes it.
#[derive(Clone)]
pub struct Draft {
    header: Members,
    payload: Members,
}

impl Draft {
    /// From the client to the server for five minutes, by the key `kid`.
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

    /// Adds a header member, be it there already or not.
    pub fn head_again(mut self, name: &str, json: &str) -> Self {
        self.header.push((name.to_owned(), json.to_owned()));
        self
    }

    /// Leaves out a header member.
    pub fn no_head(mut self, name: &str) -> Self {
        self.header.retain(|(member, _)| member != name);
        self
    }

    /// Sets a claim to this JSON text.
    pub fn claim(mut self, name: &str, json: &str) -> Self {
        set(&mut self.payload, name, json);
        self
    }

    /// Adds a claim, be it there already or not.
    pub fn claim_again(mut self, name: &str, json: &str) -> Self {
        self.payload.push((name.to_owned(), json.to_owned()));
        self
    }

    /// Leaves out a claim.
    pub fn no_claim(mut self, name: &str) -> Self {
        self.payload.retain(|(member, _)| member != name);
        self
    }

    /// The header's text.
    pub fn header(&self) -> String {
        text(&self.header)
    }

    /// The payload's text.
    pub fn payload(&self) -> String {
        text(&self.payload)
    }

    /// The token, signed by `key` as the header's `alg` says.
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

/// The JWS compact serialization of these bytes.
pub fn compact(header: &[u8], payload: &[u8], sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encode(header), encode(payload));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", encode(signature))
}

/// base64url without padding.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What [`encode`] encoded.
pub fn decode(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

/// Seconds since the epoch.
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
