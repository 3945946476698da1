//! Runs Wycheproof's signature vectors.
//!
//! The vectors are the files of C2SP/wycheproof, `testvectors_v1`, at dac1dd4 (2026-08-18). The crates
//! `wycheproof-ng-ecdsa`, `-rsa-signature` and `-kdf-jose` 0.3.0 have the same bytes. The vectors of JSON Web
//! Signature are read and verified as tokens are. The messages of the others are not those of a JWS, so
//! that they are verified with the key of the JWK.
//!
//! A valid vector must be accepted and an invalid one refused. A rule of ours may refuse all vectors of a
//! group. Each test names these rules, with the number of the vectors that they refuse.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use spiffe::TrustDomain;
use wycheproof_ng_ecdsa::TestName as Ecdsa;
use wycheproof_ng_kdf_jose::json_web::TestName as JsonWeb;
use wycheproof_ng_rsa_signature::{
    rsa_pkcs1_verify::TestName as Pkcs1, rsa_pss_verify::TestName as Pss,
};

use super::{signer, token::Jws};
use crate::jwt_bundle::{Algorithm, JwtBundle, Key};

/// The numbers of vectors, by expected result and verdict, or by the rule that refuses them.
#[derive(Default)]
struct Tally(BTreeMap<String, usize>);

impl Tally {
    /// Counts a vector that must be accepted or refused, as its `result` says.
    fn judge(&mut self, test: &Value, is_accepted: bool) {
        let result = test["result"].as_str().unwrap();
        let verdict = match (result, is_accepted) {
            ("valid" | "acceptable", true) => "accepted",
            ("invalid" | "acceptable", false) => "refused",
            _ => panic!("{result}, and accepted: {is_accepted}: {test}"),
        };
        self.count(format!("{result}, {verdict}"));
    }

    /// Counts a vector that `rule` refuses. An invalid one has no verdict then, because it may be the
    /// signature of an algorithm that the rule allows.
    fn refuse(&mut self, rule: &str, test: &Value, is_accepted: bool) {
        let result = test["result"].as_str().unwrap();
        assert!(!is_accepted || result == "invalid", "{rule}: {test}");
        self.count(format!("{result}, by a rule: {rule}"));
    }

    fn count(&mut self, what: String) {
        *self.0.entry(what).or_default() += 1;
    }

    fn check(&self, expected: &[(&str, usize)]) {
        let found: Vec<_> = self.0.iter().map(|(what, n)| (what.as_str(), *n)).collect();
        assert_eq!(found, expected);
    }
}

/// Verifies the vectors of a document with the key of each group's `jwk`. `algorithm` returns the algorithm
/// that they are for, or the rule by which no algorithm verifies them.
fn verify(
    tally: &mut Tally,
    document: &str,
    jwk: impl Fn(&Value) -> Value,
    algorithm: impl Fn(&Value) -> Result<Algorithm, &'static str>,
) {
    for group in groups(document) {
        let key = Key::read(&jwk(&group));
        let rule = match (&key, algorithm(&group)) {
            (Err(fault), _) => Err(fault.to_string()),
            (Ok(_), right) => right.map_err(str::to_owned),
        };
        for test in tests(&group) {
            let (message, signature) = (octets(&test["msg"]), octets(&test["sig"]));
            let verifies = |algorithm: &Algorithm| {
                let key = key.as_ref().ok();
                key.is_some_and(|key| key.verifies(*algorithm, &message, &signature))
            };
            match &rule {
                Ok(right) => tally.judge(test, verifies(right)),
                Err(rule) => tally.refuse(rule, test, ALGORITHMS.iter().any(verifies)),
            }
        }
    }
}

const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Ps256,
    Algorithm::Ps384,
    Algorithm::Ps512,
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::Es512,
];

fn groups(document: &str) -> Vec<Value> {
    let document: Value = serde_json::from_str(document).unwrap();
    document["testGroups"].as_array().unwrap().clone()
}

fn tests(group: &Value) -> &[Value] {
    group["tests"].as_array().unwrap()
}

fn octets(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    let octet = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(octet).collect()
}

/// Returns the JWK of a group of ECDSA. Some groups come without one.
fn elliptic(group: &Value) -> Value {
    let key = &group["publicKey"];
    let point = octets(&key["uncompressed"]);
    let (x, y) = point[1..].split_at(point.len() / 2);
    let curve = match key["curve"].as_str() {
        Some("secp256r1") => "P-256",
        Some("secp384r1") => "P-384",
        Some("secp521r1") => "P-521",
        curve => panic!("{curve:?}"),
    };
    json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) })
}

/// Returns the JWK of a group of RSA. Some groups come without one.
fn rsa(group: &Value) -> Value {
    let member = |name: &str| {
        let octets = octets(&group["publicKey"][name]);
        let leading = octets.iter().take_while(|octet| **octet == 0).count();
        encode(&octets[leading..])
    };
    json!({ "kty": "RSA", "n": member("modulus"), "e": member("publicExponent") })
}

fn encode(octets: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(octets)
}

fn elliptic_algorithm(group: &Value) -> Result<Algorithm, &'static str> {
    match (group["publicKey"]["curve"].as_str(), group["sha"].as_str()) {
        (Some("secp256r1"), Some("SHA-256")) => Ok(Algorithm::Es256),
        (Some("secp384r1"), Some("SHA-384")) => Ok(Algorithm::Es384),
        (Some("secp521r1"), Some("SHA-512")) => Ok(Algorithm::Es512),
        _ => Err("a curve has one hash (RFC 7518 §3.4)"),
    }
}

fn pss_algorithm(group: &Value) -> Result<Algorithm, &'static str> {
    let (algorithm, salt) = match group["sha"].as_str() {
        Some("SHA-256") => (Algorithm::Ps256, 32),
        Some("SHA-384") => (Algorithm::Ps384, 48),
        Some("SHA-512") => (Algorithm::Ps512, 64),
        _ => return Err("a hash of no algorithm (RFC 7518 §3.1)"),
    };
    if group["mgfSha"] != group["sha"] {
        return Err("the mask has the hash of the message (RFC 7518 §3.5)");
    }
    if group["sLen"] == salt {
        Ok(algorithm)
    } else {
        Err("the salt is as long as the hash (RFC 7518 §3.5)")
    }
}

#[test]
fn wycheproof_ecdsa_vectors_have_the_right_verdict_j207() {
    let mut tally = Tally::default();
    for name in [
        Ecdsa::EcdsaSecp256r1Sha256P1363,
        Ecdsa::EcdsaSecp256r1Sha512P1363,
        Ecdsa::EcdsaSecp384r1Sha384P1363,
        Ecdsa::EcdsaSecp384r1Sha512P1363,
        Ecdsa::EcdsaSecp521r1Sha512P1363,
    ] {
        verify(&mut tally, name.json_data(), elliptic, elliptic_algorithm);
    }
    tally.check(&[
        (
            "invalid, by a rule: a curve has one hash (RFC 7518 §3.4)",
            178,
        ),
        ("invalid, refused", 263),
        ("valid, accepted", 597),
        (
            "valid, by a rule: a curve has one hash (RFC 7518 §3.4)",
            472,
        ),
    ]);
    let mut tally = Tally::default();
    for name in [
        Ecdsa::EcdsaSecp256r1Sha256,
        Ecdsa::EcdsaSecp384r1Sha384,
        Ecdsa::EcdsaSecp521r1Sha512,
    ] {
        let der = |_: &Value| Err("a signature is r and s, and not DER (RFC 7518 §3.4)");
        verify(&mut tally, name.json_data(), elliptic, der);
    }
    tally.check(&[
        (
            "invalid, by a rule: a signature is r and s, and not DER (RFC 7518 §3.4)",
            930,
        ),
        (
            "valid, by a rule: a signature is r and s, and not DER (RFC 7518 §3.4)",
            600,
        ),
    ]);
}

#[test]
fn wycheproof_rsa_pkcs1_vectors_have_the_right_verdict_j208() {
    let mut tally = Tally::default();
    for name in [
        Pkcs1::Rsa2048Sha224,
        Pkcs1::Rsa2048Sha256,
        Pkcs1::Rsa2048Sha384,
        Pkcs1::Rsa2048Sha512,
        Pkcs1::Rsa3072Sha256,
        Pkcs1::Rsa3072Sha384,
        Pkcs1::Rsa3072Sha512,
        Pkcs1::Rsa4096Sha256,
        Pkcs1::Rsa4096Sha384,
        Pkcs1::Rsa4096Sha512,
        Pkcs1::Rsa8192Sha256,
        Pkcs1::Rsa8192Sha384,
        Pkcs1::Rsa8192Sha512,
    ] {
        verify(
            &mut tally,
            name.json_data(),
            rsa,
            |group| match group["sha"].as_str() {
                Some("SHA-256") => Ok(Algorithm::Rs256),
                Some("SHA-384") => Ok(Algorithm::Rs384),
                Some("SHA-512") => Ok(Algorithm::Rs512),
                _ => Err("a hash of no algorithm (RFC 7518 §3.1)"),
            },
        );
    }
    tally.check(&[
        (
            "acceptable, by a rule: a hash of no algorithm (RFC 7518 §3.1)",
            1,
        ),
        ("acceptable, refused", 12),
        (
            "invalid, by a rule: a hash of no algorithm (RFC 7518 §3.1)",
            250,
        ),
        ("invalid, refused", 3005),
        ("valid, accepted", 89),
        (
            "valid, by a rule: a hash of no algorithm (RFC 7518 §3.1)",
            7,
        ),
    ]);
}

#[test]
fn wycheproof_rsa_pss_vectors_have_the_right_verdict_j209() {
    let mut tally = Tally::default();
    for name in Pss::all() {
        verify(&mut tally, name.json_data(), rsa, pss_algorithm);
    }
    tally.check(&[
        (
            "invalid, by a rule: a hash of no algorithm (RFC 7518 §3.1)",
            413,
        ),
        (
            "invalid, by a rule: the mask has the hash of the message (RFC 7518 §3.5)",
            91,
        ),
        (
            "invalid, by a rule: the salt is as long as the hash (RFC 7518 §3.5)",
            174,
        ),
        ("invalid, refused", 411),
        ("valid, accepted", 775),
        (
            "valid, by a rule: a hash of no algorithm (RFC 7518 §3.1)",
            878,
        ),
        (
            "valid, by a rule: the mask has the hash of the message (RFC 7518 §3.5)",
            339,
        ),
        (
            "valid, by a rule: the salt is as long as the hash (RFC 7518 §3.5)",
            416,
        ),
    ]);
}

/// The vectors of a symmetric key have it in their bundle, where it verifies nothing.
#[test]
fn wycheproof_json_web_signature_vectors_have_the_right_verdict_j210() {
    let domain = TrustDomain::new("example.org").unwrap();
    let mut tally = Tally::default();
    for group in groups(JsonWeb::JsonWebSignature.json_data()) {
        let jwk = group.get("public").unwrap_or_else(|| &group["private"]);
        let bundle = JwtBundle::parse(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap();
        for test in tests(&group) {
            let verdict = Jws::read(test["jws"].as_str().unwrap())
                .and_then(|jws| signer(&jws, &bundle, &domain).map(drop));
            match verdict {
                Err(rule) if test["result"] == "valid" => {
                    tally.refuse(&rule.to_string(), test, false);
                }
                verdict => tally.judge(test, verdict.is_ok()),
            }
        }
    }
    tally.check(&[
        ("invalid, refused", 355),
        ("valid, accepted", 32),
        ("valid, by a rule: JWT authority cannot verify the token: its alg is invalid", 2),
        ("valid, by a rule: JWT authority cannot verify the token: the algorithm of the token is not its own", 2),
        ("valid, by a rule: token signature algorithm is not supported", 9),
        ("valid, by a rule: unable to parse JWT token: a segment is not base64url", 1),
    ]);
}
