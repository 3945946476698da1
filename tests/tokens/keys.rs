use std::{error::Error, fmt, sync::Arc};

use common::bearer::{Authenticator, JwtBundle, JwtBundleSet, Refusal};
use harness::jwt::Draft;
use http::Request;
use serde_json::json;
use spiffe::{BundleSource, JwtSvid, TrustDomain};

use crate::world::{
    Expected::{Accepted, Refused},
    WORLD, bundle, check, policy, rendered,
};

#[test]
fn key_for_another_use_verifies_nothing_j156() {
    let w = &*WORLD;
    let by = |kid: &str| w.draft().head("kid", &format!("\"{kid}\"")).sign(&w.ec1);
    let leading_zero = Draft::new("RS256", "leading-zero").sign(&w.rsa1);
    w.check(&[
        (
            "J156",
            "RSA of 1024 bits",
            w.vector("rsa-1024"),
            Refused("its modulus has 1024 bits"),
        ),
        (
            "D8",
            "2048 bits at least",
            w.vector("rsa-1024"),
            Refused("its modulus has 1024 bits"),
        ),
        (
            "J157",
            "leading zero",
            leading_zero,
            Refused("its n is invalid"),
        ),
        (
            "J158",
            "for encryption",
            by("use-enc"),
            Refused("not for JWT-SVID signatures"),
        ),
        (
            "J159",
            "for X.509-SVIDs",
            by("use-x509-svid"),
            Refused("for another kind of SVID"),
        ),
        (
            "J160",
            "not to verify",
            by("ops-sign"),
            Refused("not for JWT-SVID signatures"),
        ),
        ("J160", "to verify", by("ops-verify"), Accepted),
        (
            "D7",
            "alg, use and key_ops are kept to",
            by("use-enc"),
            Refused("not for JWT-SVID signatures"),
        ),
        (
            "J161",
            "another key of a known name",
            w.draft().sign(&w.stranger),
            Refused("signature is invalid"),
        ),
        (
            "J165",
            "an unknown key type does not matter to others",
            w.token(|t| t),
            Accepted,
        ),
        (
            "J165",
            "unless its name is used",
            by("unknown-kty"),
            Refused("JWT authority cannot verify"),
        ),
        (
            "J165",
            "an unknown curve",
            by("unknown-crv"),
            Refused("JWT authority cannot verify"),
        ),
        ("D19", "unknown keys are ignored", w.token(|t| t), Accepted),
    ]);
}

#[test]
fn bundle_without_a_key_refuses_every_token_j162() {
    let empty = JwtBundleSet::from_iter([bundle("example.org", &json!({ "keys": [] }))]);
    let token = WORLD.token(|t| t);
    check(
        &Authenticator::new(empty, policy()),
        &[(
            "J162",
            "no keys",
            token.clone(),
            Refused("no JWT authority \"ec1\""),
        )],
    );
    let none = JwtBundleSet::default();
    check(
        &Authenticator::new(none, policy()),
        &[("J81", "no bundles", token, Refused("no bundle found"))],
    );
}

/// "J163", "D20": without `keys` a document is not a JWK Set.
#[test]
fn document_that_is_not_a_bundle_is_refused_j163() {
    for document in ["{}", r#"{"keys":null}"#, r#"{"keys":{}}"#, "[]", "", "x"] {
        assert!(JwtBundle::parse(document.as_bytes()).is_err(), "{document}");
    }
}

/// "J164", "D21": an entry that cannot be used is left out, and the others verify tokens.
#[test]
fn entry_that_cannot_be_used_spoils_no_other_j164() {
    for entry in [
        json!({ "kty": "EC" }),
        json!({ "kty": "EC", "kid": 1 }),
        json!({ "kty": "EC", "kid": null, "crv": "P-256", "x": "AA", "y": "AA" }),
        json!({ "kty": "AKP", "pub": "AA" }),
        json!({ "kty": "future", "kid": "a" }),
        json!({ "kty": "EC", "kid": "a", "use": "future" }),
        json!({ "kty": "EC", "kid": "a", "use": 1 }),
        json!({ "kid": "a" }),
        json!([]),
        json!(null),
    ] {
        let keys = json!({ "keys": [entry, WORLD.ec1.jwk(), entry] });
        let bundles = JwtBundleSet::from_iter([bundle("example.org", &keys)]);
        let token = WORLD.token(|t| t);
        let what = entry.to_string();
        check(
            &Authenticator::new(bundles, policy()),
            &[("J164", &what, token, Accepted)],
        );
    }
}

/// A source of keys that is closed.
#[derive(Debug)]
struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("source is closed")
    }
}

impl Error for Gone {}

impl BundleSource for Gone {
    type Item = JwtBundle;
    type Error = Self;

    fn bundle_for_trust_domain(&self, _: &TrustDomain) -> Result<Option<Arc<JwtBundle>>, Self> {
        Err(Self)
    }
}

/// A source of keys that fails the test when it is asked.
#[derive(Debug)]
struct NotAsked;

impl BundleSource for NotAsked {
    type Item = JwtBundle;
    type Error = Gone;

    fn bundle_for_trust_domain(&self, _: &TrustDomain) -> Result<Option<Arc<JwtBundle>>, Gone> {
        panic!("J202: a key is looked up before the form is checked")
    }
}

/// "J202": a malformed token causes neither a lookup of a key nor a signature verification.
#[test]
fn form_is_checked_before_keys_j202() {
    let authenticator = Authenticator::new(NotAsked, policy());
    for token in [
        "a.b".to_owned(),
        "a.b.c".to_owned(),
        WORLD.token(|t| t.head("jku", r#""x""#)),
        WORLD.token(|t| t.head("alg", r#""none""#)),
        WORLD.token(|t| t.head("typ", r#""x""#)),
        WORLD.token(|t| t.head("kid", r#""""#)),
        WORLD.token(|t| t.claim("aud", r#""x""#)),
        WORLD.token(|t| t.claim("exp", "1")),
        WORLD.token(|t| t.claim("sub", r#""x""#)),
        WORLD.token(|t| t.no_claim("exp")),
        WORLD.token(|t| t.claim("nbf", "null")),
    ] {
        let request = Request::get("/").header("authorization", format!("Bearer {token}"));
        let (head, ()) = request.body(()).unwrap().into_parts();
        assert_eq!(authenticator.authenticate(&head).unwrap_err().status(), 401);
    }
}

/// "J169", "J171", "J203": a failure of the server is not the caller's fault, and it grants no
/// access.
#[test]
fn authenticator_without_bundles_answers_503_j171() {
    let request =
        Request::get("/").header("authorization", format!("Bearer {}", WORLD.token(|t| t)));
    let (head, ()) = request.body(()).unwrap().into_parts();
    let refusal = Authenticator::new(Gone, policy())
        .authenticate(&head)
        .unwrap_err();
    assert!(matches!(refusal, Refusal::NoTrust(_)), "{refusal}");
    let answer = rendered(refusal);
    assert!(
        answer.starts_with("503") && answer.contains("\"retry-after\": \"5\""),
        "{answer}"
    );
    assert!(!answer.contains("www-authenticate"), "{answer}");
}

/// jsonwebtoken has no default if both backends are built in, so that every verification panics.
#[test]
fn one_cryptographic_backend_is_built_in_j172() {
    let lock = include_str!("../../Cargo.lock");
    assert!(lock.contains("name = \"aws-lc-rs\""));
    for package in ["rsa", "p256", "p384", "ed25519-dalek"] {
        assert!(
            !lock.contains(&format!("name = \"{package}\"\n")),
            "{package}"
        );
    }
}

/// `parse_insecure` may be used for log lines only, and never for a decision.
#[test]
fn parse_insecure_checks_neither_audience_nor_times_d018() {
    let token = WORLD.token(|t| t.claim("aud", r#""x""#).claim("exp", "1"));
    assert!(JwtSvid::parse_insecure(&token).is_ok());
    let without_kid = WORLD.token(|t| t.no_head("kid"));
    assert!(JwtSvid::parse_insecure(&without_kid).is_err());
    check(
        &WORLD.authenticator(),
        &[("D18", "not enough", token, Refused("expected audience"))],
    );
}
