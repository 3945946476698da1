use harness::{
    jwt::{Draft, Key},
    x509::pem,
};

use crate::world::{
    Expected::{Accepted, As, NotAllowed, Refused},
    WORLD, authenticate, check, policy,
};

/// The log text of a key of another type, curve or algorithm than the token's.
const MISMATCH: &str = "the algorithm of the token is not its own";
const UNSUPPORTED: &str = "token signature algorithm is not supported";
const SIGNATURE: &str = "token signature is invalid";

#[test]
fn good_tokens_are_accepted_j001() {
    let w = &*WORLD;
    let rsa = |alg| Draft::new(alg, w.rsa1.kid()).sign(&w.rsa1);
    let at = |kid| w.token(|t| t.head("kid", kid));
    let iat = harness::jwt::now();
    w.check(&[
        ("J1", "ES256", w.token(|t| t), Accepted),
        (
            "J2",
            "array of one",
            w.token(|t| t.claim("aud", r#"["spiffe://example.org/server"]"#)),
            Accepted,
        ),
        (
            "J3",
            "one of two",
            w.token(|t| t.claim("aud", r#"["x","spiffe://example.org/server"]"#)),
            Accepted,
        ),
        ("J4", "no typ", w.token(|t| t.no_head("typ")), Accepted),
        (
            "J5",
            "JOSE",
            w.token(|t| t.head("typ", r#""JOSE""#)),
            Accepted,
        ),
        ("J6", "RS256", rsa("RS256"), Accepted),
        ("J6", "RS384", rsa("RS384"), Accepted),
        ("J6", "RS512", rsa("RS512"), Accepted),
        ("J7", "PS256", rsa("PS256"), Accepted),
        ("J7", "PS384", rsa("PS384"), Accepted),
        ("J7", "PS512", rsa("PS512"), Accepted),
        (
            "J7",
            "PS256 of another implementation",
            w.vector("salt-32"),
            Accepted,
        ),
        (
            "J8",
            "ES384",
            Draft::new("ES384", "ec384").sign(&w.ec384),
            Accepted,
        ),
        (
            "J9",
            "ES512",
            Draft::new("ES512", "ec521").sign(&w.ec521),
            Accepted,
        ),
        (
            "D5",
            "ES512 by a P-521 key, as go-spiffe",
            Draft::new("ES512", "ec521").sign(&w.ec521),
            Accepted,
        ),
        (
            "J10",
            "other claims",
            w.token(|t| t.claim("iss", r#""x""#).claim("a", r#"{"b":[{}]}"#)),
            Accepted,
        ),
        (
            "J11",
            "a federated caller",
            Draft::new("ES256", "p1")
                .claim("sub", r#""spiffe://partner.example/x""#)
                .sign(&w.p1),
            As("spiffe://partner.example/x"),
        ),
        (
            "J12",
            "iat, nbf, jti",
            w.token(|t| t.claim("nbf", &iat.to_string()).claim("jti", r#""1""#)),
            Accepted,
        ),
        ("J13", "use sig", at(r#""use-sig""#), Accepted),
        ("J13", "use jwt-svid", at(r#""use-jwt-svid""#), Accepted),
        ("J14", "RSA-4096", w.vector("rsa-4096"), Accepted),
        ("J14", "e = 3", w.vector("rsa-3"), Accepted),
        (
            "J16",
            "an escaped name",
            w.token(|t| t.no_head("alg").head_again(r"\u0061lg", r#""ES256""#)),
            Accepted,
        ),
        (
            "J16",
            "whitespace",
            w.token(|t| t.head("kid", "\n \"ec1\" \r\n")),
            Accepted,
        ),
        (
            "J17",
            "whitespace around",
            spaced(" \t\r\n", "\n\t "),
            Accepted,
        ),
    ]);
}

/// Returns a valid token with this text before and after its payload.
fn spaced(before: &str, after: &str) -> String {
    let w = &*WORLD;
    let draft = w.draft();
    let payload = format!("{before}{}{after}", draft.payload());
    harness::jwt::compact(draft.header().as_bytes(), payload.as_bytes(), |message| {
        w.ec1.sign("ES256", message)
    })
}

#[test]
fn federated_caller_that_is_not_named_is_not_allowed_j011() {
    let w = &*WORLD;
    let token = Draft::new("ES256", "p1")
        .claim("sub", r#""spiffe://partner.example/x""#)
        .sign(&w.p1);
    let mut policy = policy();
    let pattern = "spiffe://example.org/*".parse().unwrap();
    policy.rules = common::bearer::Allow::from_iter([pattern]).into();
    let authenticator = common::bearer::Authenticator::new(w.bundles(&[]), policy);
    check(&authenticator, &[("J11", "not named", token, NotAllowed)]);
}

#[test]
fn token_is_accepted_until_it_expires_j015() {
    let token = WORLD.token(|t| t.claim("jti", r#""once""#));
    let authenticator = WORLD.authenticator();
    for time in ["J15 first", "J15 second"] {
        assert!(authenticate(&authenticator, &token).is_ok(), "{time}");
    }
}

#[test]
fn other_algorithms_are_refused_j018() {
    let w = &*WORLD;
    let unsigned = |alg: &str| {
        let token = w.token(|t| t.head("alg", alg));
        token[..=token.rfind('.').unwrap()].to_owned()
    };
    let confused = |secret: &[u8]| Draft::new("HS256", "rsa1").sign(&Key::hmac("rsa1", secret));
    let alg = |json: &str| w.token(|t| t.head("alg", json));
    w.check(&[
        ("J18", "none", unsigned(r#""none""#), Refused(UNSUPPORTED)),
        ("J19", "None", unsigned(r#""None""#), Refused(UNSUPPORTED)),
        ("J19", "nOnE", unsigned(r#""nOnE""#), Refused(UNSUPPORTED)),
        ("J19", "NONE", unsigned(r#""NONE""#), Refused(UNSUPPORTED)),
        (
            "J20",
            "HS256 by the public key",
            confused(w.rsa1.public_der()),
            Refused(UNSUPPORTED),
        ),
        (
            "J20",
            "HS256 by the public key in PEM",
            confused(pem("RSA PUBLIC KEY", w.rsa1.public_der()).as_bytes()),
            Refused(UNSUPPORTED),
        ),
        (
            "J21",
            "HS256 by a secret of the bundle",
            Draft::new("HS256", "oct1").sign(&w.oct1),
            Refused(UNSUPPORTED),
        ),
        ("J22", "ES256K", w.vector("es256k"), Refused(UNSUPPORTED)),
        (
            "J23",
            "EdDSA",
            Draft::new("EdDSA", "ed1").sign(&w.ed1),
            Refused(UNSUPPORTED),
        ),
        ("J24", "other case", alg(r#""es256""#), Refused(UNSUPPORTED)),
        ("J24", "a space", alg(r#""ES256 ""#), Refused(UNSUPPORTED)),
        (
            "J25",
            "no alg",
            w.token(|t| t.no_head("alg")),
            Refused("header"),
        ),
        ("J26", "null", alg("null"), Refused("header")),
        ("J26", "number", alg("256"), Refused("header")),
        ("J26", "array", alg(r#"["ES256"]"#), Refused("header")),
    ]);
}

#[test]
fn algorithm_that_is_not_the_keys_is_refused_j027() {
    let w = &*WORLD;
    w.check(&[
        (
            "J27",
            "RS256 by the kid of an EC key",
            Draft::new("RS256", "ec1").sign(&w.rsa1),
            Refused(MISMATCH),
        ),
        (
            "J28",
            "ES256 by the kid of an RSA key",
            Draft::new("ES256", "rsa1").sign(&w.ec1),
            Refused(MISMATCH),
        ),
        (
            "J29",
            "ES384 by P-256",
            w.vector("es384-by-p256"),
            Refused(MISMATCH),
        ),
        (
            "D6",
            "the curve is bound to the alg",
            w.vector("es384-by-p256"),
            Refused(MISMATCH),
        ),
        (
            "J30",
            "ES512 by P-256",
            w.vector("es512-by-p256"),
            Refused(MISMATCH),
        ),
        (
            "J31",
            "PS256 by a key for RS256",
            Draft::new("PS256", "rs256only").sign(&w.rsa1),
            Refused(MISMATCH),
        ),
        ("J32", "PSS under RS256", pss_as_rs256(), Refused(SIGNATURE)),
        ("J33", "no salt", w.vector("salt-0"), Refused(SIGNATURE)),
        (
            "J33",
            "the longest salt",
            w.vector("salt-max"),
            Refused(SIGNATURE),
        ),
        (
            "D9",
            "salts of any other length",
            w.vector("salt-max"),
            Refused(SIGNATURE),
        ),
    ]);
}

fn pss_as_rs256() -> String {
    let w = &*WORLD;
    let draft = Draft::new("RS256", w.rsa1.kid());
    harness::jwt::compact(
        draft.header().as_bytes(),
        draft.payload().as_bytes(),
        |message| w.rsa1.sign("PS256", message),
    )
}
