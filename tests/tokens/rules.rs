use std::sync::Arc;

use common::bearer::{Allow, Authenticator, Caller, Credential, JwtBundleSet, Pattern, Policy};
use harness::{
    CLIENT_ID, SERVER_ID,
    jwt::{Draft, Key},
};
use http::{Request, header::AUTHORIZATION};
use serde_json::json;
use spiffe::SpiffeId;

use crate::world::{
    Expected::{Accepted, As, Refused},
    WORLD, bundle, check, policy,
};

#[test]
fn hmac_of_any_length_is_refused_t009() {
    let w = &*WORLD;
    let rows = ["HS256", "HS384", "HS512"].map(|alg| {
        let public = Key::hmac("rsa1", w.rsa1.public_der());
        [
            ("T9", alg, Draft::new(alg, "rsa1").sign(&public)),
            ("T9", alg, Draft::new(alg, "oct1").sign(&w.oct1)),
        ]
    });
    let unsupported = Refused("token signature algorithm is not supported");
    let rows = rows.as_flattened().iter();
    let rows = rows.map(|(number, alg, token)| (*number, *alg, token.clone(), unsupported));
    w.check(&rows.collect::<Vec<_>>());
}

#[test]
fn kid_chooses_one_of_several_keys_of_the_algorithm_t010() {
    let keys = ["a", "b", "c"].map(Key::p256);
    let jwks: Vec<_> = keys.iter().map(Key::jwk).collect();
    let bundles = JwtBundleSet::from_iter([bundle("example.org", &json!({ "keys": jwks }))]);
    let authenticator = Authenticator::new(bundles, policy());
    for key in &keys {
        for kid in ["a", "b", "c"] {
            let expected = if kid == key.kid() {
                Accepted
            } else {
                Refused("signature is invalid")
            };
            let token = Draft::new("ES256", kid).sign(key);
            check(&authenticator, &[("T10", kid, token, expected)]);
        }
    }
}

#[test]
fn keys_of_other_kinds_of_svid_verify_nothing_and_harm_no_other_t011() {
    let w = &*WORLD;
    let key = |kid: &str, usage: &str| {
        let mut jwk = w.ec1.jwk();
        jwk["kid"] = kid.into();
        jwk["use"] = usage.into();
        jwk
    };
    let keys = [key("wit", "wit-svid"), key("new", "a-later-kind")];
    let authenticator = Authenticator::new(w.bundles(&keys), policy());
    let by = |kid: &str| Draft::new("ES256", kid).sign(&w.ec1);
    check(
        &authenticator,
        &[
            ("T11", "wit-svid", by("wit"), Refused("JWT authority")),
            ("T11", "a later kind", by("new"), Refused("JWT authority")),
            ("T11", "the others", w.token(|t| t), Accepted),
        ],
    );
}

#[test]
fn trust_domain_and_path_may_have_every_character_of_the_standard_t012() {
    let w = &*WORLD;
    let long = format!("{}.example", "d".repeat(247));
    let domains = ["my_domain-1.example", "192.0.2.7", "10", "a", "..", &long];
    let jwks = json!({ "keys": [w.ec1.jwk()] });
    let bundles = domains.map(|domain| bundle(domain, &jwks));
    let patterns = domains.map(|domain| format!("spiffe://{domain}/*"));
    let allow: Allow = patterns
        .iter()
        .map(|pattern| pattern.parse::<Pattern>().unwrap())
        .collect();
    let policy = Policy::new(vec![SERVER_ID.to_owned()], allow);
    let authenticator = Authenticator::new(JwtBundleSet::from_iter(bundles), policy);
    for domain in domains {
        for path in ["a", "A.b-C_9", "0", "-", "_", "...", "ns/b/sa/c"] {
            let id = format!("spiffe://{domain}/{path}");
            let token = w.token(|t| t.claim("sub", &format!("\"{id}\"")));
            check(&authenticator, &[("T12", &id, token, As(&id))]);
        }
    }
}

#[test]
fn claims_are_those_of_the_token_whether_it_is_new_or_known_j206() {
    let mut policy = policy();
    policy.token_cache = 16;
    let authenticator = Authenticator::new(WORLD.bundles(&[]), policy);
    let read = |token: &str| {
        let request = Request::get("/").header(AUTHORIZATION, format!("bearer  {token}"));
        let head = request.body(()).unwrap().into_parts().0;
        let caller = authenticator.authenticate(&head).unwrap().unwrap();
        assert!(matches!(caller.credential, Credential::Token { .. }));
        caller.claims()
    };
    for roles in ["a", "b"] {
        let token = WORLD.token(|t| t.claim("roles", &json!([roles]).to_string()));
        for state in ["new", "known"] {
            let claims = read(&token).unwrap().expect(state);
            assert_eq!(claims.subject, CLIENT_ID);
            assert_eq!(claims.audiences, [SERVER_ID]);
            assert_eq!(claims.others["roles"], json!([roles]), "{state}");
        }
    }
    let twice = WORLD.token(|t| t.claim_again("x", "1").claim_again("x", "2"));
    let fault = read(&twice).unwrap_err().to_string();
    assert!(fault.contains("x is there twice"), "{fault}");

    let id = SpiffeId::new(CLIENT_ID).unwrap();
    let by_certificate = Caller::new(Arc::new(id), Credential::Certificate);
    assert!(by_certificate.claims().unwrap().is_none());
}
