use std::time::{Duration, SystemTime};

use super::*;
use crate::{authority::Ca, jwt::JwtKey};

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn root() -> Value {
    let ca = Ca::new(
        &domain("b.test"),
        Duration::from_secs(60),
        SystemTime::now(),
    );
    let mut jwk = ca.unwrap().jwk();
    jwk["use"] = "x509-svid".into();
    jwk
}

fn key() -> Value {
    let mut jwk = JwtKey::generate().unwrap().jwk();
    jwk["use"] = "jwt-svid".into();
    jwk
}

fn with(mut key: Value, name: &str, value: Value) -> Value {
    key[name] = value;
    key
}

fn parse(keys: &[Value]) -> Result<FederatedBundle, Error> {
    let document = json!({ "keys": keys, "spiffe_sequence": 1 }).to_string();
    FederatedBundle::parse(domain("b.test"), &document)
}

#[test]
fn keys_are_sorted_by_use_and_unknown_ones_left_out_w119() {
    let (root, key) = (root(), key());
    let bundle = parse(&[
        root.clone(),
        key.clone(),
        with(key.clone(), "use", "wit-svid".into()),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "1", "use": "jwt-svid" }),
        json!({ "kty": "EC" }),
    ])
    .unwrap();
    let der = STANDARD.decode(root["x5c"][0].as_str().unwrap()).unwrap();
    assert_eq!(bundle.x509_bundle(), der);
    let mut published = key;
    published.as_object_mut().unwrap().remove("use");
    assert_eq!(
        bundle.jwks().collect::<Vec<_>>(),
        [published],
        "S1: no wit-svid"
    );
}

#[test]
fn a_fault_of_a_known_key_refuses_the_bundle_w125() {
    let (root, key) = (root(), key());
    let n = |bytes: usize| URL_SAFE_NO_PAD.encode(vec![0xff; bytes]);
    let rsa =
        |n: String| json!({ "kty": "RSA", "kid": "1", "n": n, "e": "AQAB", "use": "jwt-svid" });
    parse(&[rsa(n(256))]).unwrap();
    for (keys, reason) in [
        (
            vec![with(key.clone(), "d", "AA".into())],
            "key 1 of 1: it is a secret key",
        ),
        (
            vec![json!({ "kty": "oct", "k": "AA" })],
            "it is a secret key",
        ),
        (
            vec![with(key.clone(), "kid", "".into())],
            "is empty or another key's",
        ),
        (
            vec![with(key.clone(), "kid", Value::Null)],
            "it has no 'kid'",
        ),
        // "W123"
        (vec![key.clone(), key.clone()], "key 2 of 2: its 'kid'"),
        (
            vec![with(key.clone(), "x", "AA".into())],
            "'x' is not of 32 bytes",
        ),
        (vec![with(key, "y", "A=".into())], "'y' is not base64url"),
        (vec![rsa(n(128))], "this has 1024"),
        (vec![rsa(n(255))], "this has 2040"),
        (
            vec![with(root.clone(), "x5c", Value::Null)],
            "'x5c' is not an array of one",
        ),
        (
            vec![with(root.clone(), "x5c", json!(["AA", "AA"]))],
            "'x5c' is not an array of one",
        ),
        (
            vec![with(root.clone(), "x5c", json!(["AAAA"]))],
            "not a certificate",
        ),
        (vec![with(root, "x5c", json!(["*"]))], "not base64"),
    ] {
        let error = parse(&keys).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
        assert!(error.contains("'spiffe://b.test'"), "{error}");
    }
}

#[test]
fn a_text_that_is_not_a_bundle_document_is_refused_w125() {
    for (document, reason) in [
        ("", "is not JSON"),
        ("{}", "no 'keys' array"),
        (r#"{"keys":null}"#, "no 'keys' array"),
        (r#"{"keys":[],"keys":[]}"#, "given twice"),
        (
            &" ".repeat(MAX_DOCUMENT + 1),
            "is longer than 1048576 bytes",
        ),
    ] {
        let error = FederatedBundle::parse(domain("b.test"), document).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn bundles_that_share_a_domain_or_a_key_are_refused_w124() {
    let bundle = |name: &str, keys: Vec<Value>| {
        FederatedBundle::parse(domain(name), &json!({ "keys": keys }).to_string()).unwrap()
    };
    let (one, two) = (key(), root());
    let b = bundle("b.test", vec![one.clone()]);
    check(
        &domain("a.test"),
        &[b.clone(), bundle("c.test", vec![two.clone()])],
    )
    .unwrap();
    let renamed = with(one, "kid", "other".into());
    for (bundles, reason) in [
        (
            vec![bundle("a.test", vec![])],
            "the agent's own trust domain",
        ),
        (vec![b.clone(), bundle("b.test", vec![])], "has two bundles"),
        (
            vec![b, bundle("c.test", vec![renamed])],
            "another trust domain's too",
        ),
        (
            vec![
                bundle("b.test", vec![two.clone()]),
                bundle("c.test", vec![two]),
            ],
            "another trust domain's too",
        ),
    ] {
        let error = check(&domain("a.test"), &bundles).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn more_bundles_than_a_client_accepts_are_refused_w094() {
    let bundle = |number: usize, padding: usize| {
        let document = format!(r#"{{"keys":[]}}{}"#, " ".repeat(padding));
        FederatedBundle::parse(domain(&format!("d{number}.test")), &document).unwrap()
    };
    for (count, padding, accepted) in [
        (201, 0, true),
        (10_000, 0, true),
        (10_001, 0, false),
        (3, 1 << 20, false),
    ] {
        let padding = padding.min(MAX_DOCUMENT - 11);
        let mut bundles: Vec<_> = (0..count).map(|n| bundle(n, padding)).collect();
        if padding > 0 {
            bundles.push(bundle(count, padding));
        }
        assert_eq!(
            check(&domain("a.test"), &bundles).is_ok(),
            accepted,
            "{count}"
        );
    }
}
