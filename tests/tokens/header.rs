use harness::jwt::{compact, encode};
use serde_json::json;

use crate::world::{
    Expected::{Accepted, Refused, TooLong},
    WORLD,
};

const NO_AUTHORITY: &str = "no JWT authority";
const HEADER: &str = "invalid JOSE header";
const TYPE: &str = "token header type not equal to either JWT or JOSE";

#[test]
fn kid_must_name_a_key_of_the_bundle_j034_j201() {
    let w = &*WORLD;
    let kid = |json: &str| w.token(|t| t.head("kid", json));
    w.check(&[
        ("J34", "no kid", w.token(|t| t.no_head("kid")), Accepted),
        (
            "J34",
            "no kid, by another key",
            w.draft().no_head("kid").sign(&w.stranger),
            Refused("token signature is invalid"),
        ),
        (
            "J35",
            "empty, and the bundle has such a key",
            kid(r#""""#),
            Refused("token header missing key id"),
        ),
        (
            "D16",
            "empty, as go-spiffe",
            kid(r#""""#),
            Refused("token header missing key id"),
        ),
        ("J36", "null", kid("null"), Refused(HEADER)),
        ("J36", "number", kid("1"), Refused(HEADER)),
        (
            "J37",
            "unknown",
            kid(r#""nobody's""#),
            Refused(r#"no JWT authority "nobody's" found for trust domain "example.org""#),
        ),
        ("J38", "other case", kid(r#""EC1""#), Refused(NO_AUTHORITY)),
        (
            "J39",
            "the first of two of one name",
            w.draft().head("kid", r#""dup""#).sign(&w.dup[0]),
            Refused("token signature is invalid"),
        ),
        (
            "J40",
            "the last of two of one name",
            w.draft().head("kid", r#""dup""#).sign(&w.dup[1]),
            Accepted,
        ),
        (
            "J41",
            "kid twice",
            w.token(|t| t.head_again("kid", r#""ec1""#)),
            Refused(HEADER),
        ),
        (
            "J41",
            "alg twice",
            w.token(|t| t.head_again("alg", r#""ES256""#)),
            Refused(HEADER),
        ),
        (
            "J42",
            "a path",
            kid(r#""../../../dev/null""#),
            Refused(NO_AUTHORITY),
        ),
        ("J42", "SQL", kid(r#""' OR 1=1 --""#), Refused(NO_AUTHORITY)),
        (
            "J43",
            "a line of log",
            kid(r#""x\nlevel=info caller=admin""#),
            Refused(r#""x\nlevel=info caller=admin""#),
        ),
        (
            "J44",
            "long, and cut in the log",
            kid(&format!("\"{}\"", "k".repeat(5000))),
            Refused("k…\""),
        ),
        (
            "J44",
            "too long for the header",
            kid(&format!("\"{}\"", "k".repeat(47_000))),
            TooLong,
        ),
    ]);
}

#[test]
fn other_typ_than_jwt_and_jose_is_refused_j045() {
    let typ = |json: &str| WORLD.token(|t| t.head("typ", json));
    WORLD.check(&[
        ("J45", "other case", typ(r#""jwt""#), Refused(TYPE)),
        ("J45", "an access token", typ(r#""at+jwt""#), Refused(TYPE)),
        ("J45", "empty", typ(r#""""#), Refused(TYPE)),
        ("J45", "a space", typ(r#""JWT ""#), Refused(TYPE)),
        (
            "J45",
            "JSON serialization",
            typ(r#""JOSE+JSON""#),
            Refused(TYPE),
        ),
        ("J46", "null", typ("null"), Refused(HEADER)),
        ("J47", "number", typ("5"), Refused(HEADER)),
        ("J47", "array", typ(r#"["JWT"]"#), Refused(HEADER)),
    ]);
}

#[test]
fn header_members_that_the_standard_does_not_have_are_refused_j048() {
    let w = &*WORLD;
    let member = |name: &str, json: &str| w.token(|t| t.head(name, json));
    let own = w.ec1.jwk().to_string();
    let foreign = w
        .draft()
        .head("jwk", &w.stranger.jwk().to_string())
        .sign(&w.stranger);
    let url = r#""https://localhost/keys""#;
    w.check(&[
        (
            "J48",
            "a key of its own, signed by it",
            foreign,
            Refused(HEADER),
        ),
        (
            "J49",
            "our key, signed by it",
            member("jwk", &own),
            Refused(HEADER),
        ),
        ("J50", "jku", member("jku", url), Refused(HEADER)),
        ("J51", "x5u", member("x5u", url), Refused(HEADER)),
        ("J52", "x5c", member("x5c", r#"["MIIB"]"#), Refused(HEADER)),
        ("J52", "x5t", member("x5t", r#""AA""#), Refused(HEADER)),
        (
            "J52",
            "x5t#S256",
            member("x5t#S256", r#""AA""#),
            Refused(HEADER),
        ),
        ("J53", "crit", member("crit", r#"["exp"]"#), Refused(HEADER)),
        ("J54", "empty crit", member("crit", "[]"), Refused(HEADER)),
        (
            "J55",
            "b64 false",
            w.token(|t| t.head("crit", r#"["b64"]"#).head("b64", "false")),
            Refused(HEADER),
        ),
        ("J56", "b64 true", member("b64", "true"), Refused(HEADER)),
        ("J57", "cty", member("cty", r#""JWT""#), Refused(HEADER)),
        ("J58", "zip", member("zip", r#""DEF""#), Refused(HEADER)),
        ("J58", "nonce", member("nonce", r#""1""#), Refused(HEADER)),
        ("J58", "url", member("url", r#""x""#), Refused(HEADER)),
        ("J58", "Alg", member("Alg", r#""none""#), Refused(HEADER)),
        ("J58", "private", member("spiffe", "1"), Refused(HEADER)),
        (
            "D10",
            "no member that JWT-SVID §2 does not name",
            member("private", "1"),
            Refused(HEADER),
        ),
    ]);
}

#[test]
fn header_that_is_not_one_object_is_refused_j059() {
    let w = &*WORLD;
    let payload = w.draft().payload();
    let header = |text: &str| {
        compact(text.as_bytes(), payload.as_bytes(), |message| {
            w.ec1.sign("ES256", message)
        })
    };
    let good = w.draft().header();
    let array = json!(["ES256", "ec1", "JWT"]).to_string();
    let refused = Refused("unable to parse JWT token");
    w.check(&[
        ("J59", "array", header(&array), refused),
        (
            "J59",
            "trailing bytes",
            header(&format!("{good}{{}}")),
            refused,
        ),
        (
            "J59",
            "byte order mark",
            header(&format!("\u{feff}{good}")),
            refused,
        ),
        ("J59", "null", header("null"), refused),
        (
            "J59",
            "a string",
            header(&json!(encode(&good)).to_string()),
            refused,
        ),
    ]);
}
