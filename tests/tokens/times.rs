use std::time::Duration;

use common::bearer::{Authenticator, JwtBundleSet};
use harness::jwt::{Draft, now};

use crate::world::{
    Expected::{Accepted, Refused},
    WORLD, check, policy,
};

const PARSE: &str = "unable to parse JWT token";
const EXPIRED: &str = "token has expired";
const NOT_YET: &str = "token is not valid yet";
const END_OF_9999: i64 = 253_402_300_799;

fn exp(json: impl ToString) -> String {
    WORLD.token(|t| t.claim("exp", &json.to_string()))
}

fn nbf(json: impl ToString) -> String {
    WORLD.token(|t| t.claim("nbf", &json.to_string()))
}

#[test]
fn expired_token_is_refused_with_401_j106() {
    WORLD.check(&[
        ("J106", "a second ago", exp(now() - 1), Refused(EXPIRED)),
        ("J107", "30 seconds ago", exp(now() - 30), Refused(EXPIRED)),
        (
            "D1",
            "no leeway unless told",
            exp(now() - 1),
            Refused(EXPIRED),
        ),
        ("J108", "now", exp(now()), Refused(EXPIRED)),
        ("J109", "61 seconds ago", exp(now() - 61), Refused(EXPIRED)),
        ("J109", "an hour ago", exp(now() - 3600), Refused(EXPIRED)),
        ("J114", "zero", exp(0), Refused(EXPIRED)),
    ]);
}

#[test]
fn token_without_a_valid_exp_is_refused_j105() {
    WORLD.check(&[
        (
            "J105",
            "missing",
            WORLD.token(|t| t.no_claim("exp")),
            Refused(PARSE),
        ),
        ("J105", "null", exp("null"), Refused(PARSE)),
        (
            "J110",
            "a fraction",
            exp(format!("{}.5", now() + 300)),
            Refused(PARSE),
        ),
        (
            "J110",
            "no fraction to speak of",
            exp(format!("{}.0", now() + 300)),
            Refused(PARSE),
        ),
        ("J110", "exponent", exp("2e9"), Refused(PARSE)),
        (
            "D2",
            "whole seconds, as the schema",
            exp("4e9"),
            Refused(PARSE),
        ),
        (
            "J111",
            "string",
            exp(format!("\"{}\"", now() + 300)),
            Refused(PARSE),
        ),
        ("J112", "true", exp("true"), Refused(PARSE)),
        (
            "J112",
            "array",
            exp(format!("[{}]", now() + 300)),
            Refused(PARSE),
        ),
        (
            "J112",
            "leading zero",
            exp(format!("0{}", now() + 300)),
            Refused(PARSE),
        ),
        (
            "J112",
            "plus",
            exp(format!("+{}", now() + 300)),
            Refused(PARSE),
        ),
        ("J112", "hexadecimal", exp("0x7fffffff"), Refused(PARSE)),
        ("J113", "negative", exp(-1), Refused("token")),
        ("J115", "the end of 9999", exp(END_OF_9999), Accepted),
        (
            "J116",
            "the year 10000",
            exp(END_OF_9999 + 1),
            Refused("token"),
        ),
        ("J116", "i64", exp(i64::MAX), Refused("token")),
        (
            "D15",
            "no exp after 9999",
            exp(END_OF_9999 + 1),
            Refused("token"),
        ),
        (
            "J117",
            "more than i64",
            exp("9223372036854775808"),
            Refused(PARSE),
        ),
        ("J117", "1e30", exp("1e30"), Refused(PARSE)),
        ("J117", "1e400", exp("1e400"), Refused(PARSE)),
        (
            "J118",
            "twice",
            WORLD.token(|t| t.claim_again("exp", &(now() + 300).to_string())),
            Refused(PARSE),
        ),
    ]);
}

#[test]
fn token_before_its_nbf_is_refused_j121() {
    WORLD.check(&[
        ("J121", "now", nbf(now()), Accepted),
        ("J122", "in 30 seconds", nbf(now() + 30), Refused(NOT_YET)),
        ("J123", "in an hour", nbf(now() + 3600), Refused(NOT_YET)),
        (
            "J124",
            "string",
            nbf(format!("\"{}\"", now() - 30)),
            Refused("token"),
        ),
        ("J125", "null", nbf("null"), Refused("token")),
        ("D3", "null is not a date", nbf("null"), Refused("token")),
        (
            "J126",
            "a fraction",
            nbf(format!("{}.5", now() - 30)),
            Accepted,
        ),
        ("J126", "negative", nbf(-1), Accepted),
        ("J127", "1e30", nbf("1e30"), Refused("token")),
        (
            "J127",
            "twice",
            WORLD.token(|t| t.claim("nbf", "1").claim_again("nbf", "2")),
            Refused("token"),
        ),
    ]);
}

/// No decision depends on these claims, so that they are not checked.
#[test]
fn claims_that_are_not_used_change_nothing_j128() {
    let claim = |name: &str, json: &str| WORLD.token(|t| t.claim(name, json));
    let iat = |seconds: i64| claim("iat", &(now() + seconds).to_string());
    let twice =
        |name: &str, json: &str| WORLD.token(|t| t.claim(name, json).claim_again(name, json));
    WORLD.check(&[
        ("J128", "iat in 10 minutes, after exp", iat(600), Accepted),
        ("J128", "iat in an hour", iat(3600), Accepted),
        ("D3", "iat in the future", iat(3600), Accepted),
        ("J129", "iat string", claim("iat", r#""now""#), Accepted),
        (
            "J129",
            "iat beyond every number",
            claim("iat", "1e400"),
            Accepted,
        ),
        (
            "J129",
            "iat half a surrogate pair",
            claim("iat", r#""\ud800""#),
            Accepted,
        ),
        ("J130", "iss number", claim("iss", "1"), Accepted),
        ("J130", "iss array", claim("iss", r#"["a"]"#), Accepted),
        ("J130", "jti number", claim("jti", "1"), Accepted),
        ("J131", "private twice", twice("x", "1"), Accepted),
        ("J131", "iat twice", twice("iat", "1"), Accepted),
        (
            "J131",
            "twice in a nested object",
            claim("x", r#"{"a":1,"a":2}"#),
            Accepted,
        ),
        (
            "D17",
            "unused claims of a wrong type",
            claim("jti", "{}"),
            Accepted,
        ),
        (
            "J132",
            "iss twice",
            twice("iss", r#""a""#),
            Refused("token"),
        ),
    ]);
}

fn with_skew(seconds: u64) -> Authenticator<JwtBundleSet> {
    let mut policy = policy();
    policy.clock_skew = Duration::from_secs(seconds);
    Authenticator::new(WORLD.bundles(&[]), policy)
}

#[test]
fn clock_skew_forgives_times_and_nothing_else_j106_d001() {
    let w = &*WORLD;
    let late = |t: Draft| t.claim("exp", &(now() - 30).to_string());
    let both = |t: Draft| late(t).claim("nbf", &(now() + 3600).to_string());
    check(
        &with_skew(60),
        &[
            ("J106", "expired within the skew", w.token(late), Accepted),
            (
                "J107",
                "expired beyond the skew",
                exp(now() - 90),
                Refused(EXPIRED),
            ),
            ("J122", "valid within the skew", nbf(now() + 30), Accepted),
            (
                "J123",
                "valid beyond the skew",
                nbf(now() + 90),
                Refused(NOT_YET),
            ),
            (
                "J123",
                "expired within, valid beyond",
                w.token(both),
                Refused("not valid yet"),
            ),
            (
                "J161",
                "by another key",
                late(w.draft()).sign(&w.stranger),
                Refused("signature"),
            ),
            (
                "J93",
                "for another",
                w.token(|t| late(t).claim("aud", r#""x""#)),
                Refused("expected audience"),
            ),
            (
                "J83",
                "of another domain",
                late(w.draft())
                    .claim("sub", r#""spiffe://partner.example/x""#)
                    .sign(&w.ec1),
                Refused("signature"),
            ),
            (
                "J64",
                "subject",
                w.token(|t| late(t).claim("sub", r#""SPIFFE://example.org/client""#)),
                Refused("subject"),
            ),
            (
                "J35",
                "empty kid",
                w.token(|t| late(t).head("kid", r#""""#)),
                Refused("missing key id"),
            ),
            (
                "J50",
                "jku",
                w.token(|t| late(t).head("jku", r#""x""#)),
                Refused("header"),
            ),
            (
                "J46",
                "typ null",
                w.token(|t| late(t).head("typ", "null")),
                Refused("header"),
            ),
            (
                "J158",
                "use",
                w.token(|t| late(t).head("kid", r#""use-enc""#)),
                Refused("not for JWT-SVID signatures"),
            ),
            (
                "J157",
                "leading zero",
                late(Draft::new("RS256", "leading-zero")).sign(&w.rsa1),
                Refused("its n is invalid"),
            ),
            (
                "J160",
                "key_ops",
                w.token(|t| late(t).head("kid", r#""ops-sign""#)),
                Refused("not for JWT-SVID signatures"),
            ),
            (
                "J125",
                "nbf null",
                w.token(|t| late(t).claim("nbf", "null")),
                Refused("unable to parse"),
            ),
            (
                "J135",
                "no signature",
                w.token(late).rsplit_once('.').unwrap().0.to_owned() + ".",
                Refused("signature"),
            ),
            (
                "J31",
                "alg of the key",
                late(Draft::new("PS256", "rs256only")).sign(&w.rsa1),
                Refused("the algorithm of the token is not its own"),
            ),
        ],
    );
    check(
        &with_skew(0),
        &[("J106", "no skew", w.token(late), Refused(EXPIRED))],
    );
}

#[test]
fn token_with_a_longer_lifetime_than_set_is_refused_j115() {
    let mut policy = policy();
    policy.max_token_lifetime = Some(Duration::from_secs(600));
    let authenticator = Authenticator::new(WORLD.bundles(&[]), policy);
    let token = |iat: Option<&str>, exp: i64| {
        WORLD.token(|t| {
            let t = t.no_claim("iat").claim("exp", &(now() + exp).to_string());
            iat.iter().fold(t, |t, iat| t.claim("iat", iat))
        })
    };
    let at = |seconds: i64| (now() + seconds).to_string();
    let over = Refused("token lifetime is longer than 10m");
    check(
        &authenticator,
        &[
            ("J115", "short", token(Some(&at(0)), 500), Accepted),
            (
                "J115",
                "issued a while ago",
                token(Some(&at(-200)), 390),
                Accepted,
            ),
            (
                "J115",
                "too long, most of it over",
                token(Some(&at(-500)), 150),
                over,
            ),
            ("J115", "too long", token(Some(&at(0)), 700), over),
            ("J115", "no iat", token(None, 500), Accepted),
            ("J115", "no iat, too long", token(None, 700), over),
            ("J115", "the end of 9999", exp(END_OF_9999), over),
            (
                "J128",
                "iat in the future makes no token shorter",
                token(Some(&at(500)), 700),
                over,
            ),
            (
                "J129",
                "iat is used now, and must be a number",
                token(Some(r#""now""#), 500),
                Refused(PARSE),
            ),
            (
                "J131",
                "iat is used now, and must be one",
                WORLD.token(|t| t.claim_again("iat", "1")),
                Refused(PARSE),
            ),
        ],
    );
}
