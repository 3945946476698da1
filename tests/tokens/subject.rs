use harness::jwt::Draft;

use crate::world::{
    Expected::{Accepted, As, NotAllowed, Refused},
    WORLD,
};

const SUBJECT: &str = "token has an invalid subject claim";
const PARSE: &str = "unable to parse JWT token";
const SIGNATURE: &str = "token signature is invalid";

fn subject(id: &str) -> String {
    WORLD.token(|t| t.claim("sub", &serde_json::to_string(id).unwrap()))
}

fn id_of(length: usize) -> String {
    let id = format!("spiffe://example.org/{}", "a".repeat(length));
    id[..length].to_owned()
}

#[test]
fn subject_that_is_not_a_canonical_spiffe_id_is_refused_j060() {
    let claim = |json: &str| WORLD.token(|t| t.claim("sub", json));
    WORLD.check(&[
        (
            "J60",
            "missing",
            WORLD.token(|t| t.no_claim("sub")),
            Refused(PARSE),
        ),
        ("J61", "null", claim("null"), Refused(PARSE)),
        ("J61", "number", claim("1"), Refused(PARSE)),
        (
            "J61",
            "array",
            claim(r#"["spiffe://example.org/client"]"#),
            Refused(PARSE),
        ),
        ("J62", "empty", subject(""), Refused(SUBJECT)),
        (
            "J63",
            "no scheme",
            subject("example.org/client"),
            Refused(SUBJECT),
        ),
        (
            "J63",
            "http",
            subject("http://example.org/client"),
            Refused(SUBJECT),
        ),
        (
            "J63",
            "no authority",
            subject("spiffe:/x"),
            Refused(SUBJECT),
        ),
        (
            "J64",
            "upper-case scheme",
            subject("SPIFFE://example.org/client"),
            Refused(SUBJECT),
        ),
        (
            "J65",
            "upper-case trust domain",
            subject("spiffe://EXAMPLE.org/client"),
            Refused(SUBJECT),
        ),
        (
            "D13",
            "no other form of an ID than its own, as go-spiffe",
            subject("Spiffe://Example.org/client"),
            Refused(SUBJECT),
        ),
        (
            "J66",
            "query",
            subject("spiffe://example.org/client?a=b"),
            Refused(SUBJECT),
        ),
        (
            "J67",
            "fragment",
            subject("spiffe://example.org/client#x"),
            Refused(SUBJECT),
        ),
        (
            "J68",
            "user",
            subject("spiffe://u@example.org/client"),
            Refused(SUBJECT),
        ),
        (
            "J69",
            "port",
            subject("spiffe://example.org:443/client"),
            Refused(SUBJECT),
        ),
        (
            "J70",
            "percent-encoded",
            subject("spiffe://example.org/%63lient"),
            Refused(SUBJECT),
        ),
        (
            "J71",
            "trailing slash",
            subject("spiffe://example.org/client/"),
            Refused(SUBJECT),
        ),
        (
            "J71",
            "slash alone",
            subject("spiffe://example.org/"),
            Refused(SUBJECT),
        ),
        (
            "J72",
            "empty segment",
            subject("spiffe://example.org//client"),
            Refused(SUBJECT),
        ),
        (
            "J73",
            "one dot",
            subject("spiffe://example.org/./client"),
            Refused(SUBJECT),
        ),
        (
            "J73",
            "two dots",
            subject("spiffe://example.org/x/../client"),
            Refused(SUBJECT),
        ),
        (
            "J73",
            "three dots are a name",
            subject("spiffe://example.org/.../client"),
            As("spiffe://example.org/.../client"),
        ),
        (
            "J74",
            "a letter that looks like e",
            subject("spiffe://example.org/cli\u{435}nt"),
            Refused(SUBJECT),
        ),
        (
            "J75",
            "leading space",
            subject(" spiffe://example.org/client"),
            Refused(SUBJECT),
        ),
        (
            "J75",
            "trailing space",
            subject("spiffe://example.org/client "),
            Refused(SUBJECT),
        ),
        (
            "J75",
            "NUL",
            subject("spiffe://example.org/client\0"),
            Refused(SUBJECT),
        ),
        (
            "J75",
            "line feed",
            subject("spiffe://example.org/client\n"),
            Refused(SUBJECT),
        ),
        (
            "J76",
            "IPv6",
            subject("spiffe://[::1]/client"),
            Refused(SUBJECT),
        ),
        (
            "J76",
            "no trust domain",
            subject("spiffe:///client"),
            Refused(SUBJECT),
        ),
        (
            "J86",
            "twice",
            WORLD.token(|t| t.claim_again("sub", r#""spiffe://example.org/admin""#)),
            Refused(PARSE),
        ),
        (
            "J86",
            "twice, escaped",
            WORLD.token(|t| t.claim_again(r"\u0073ub", r#""spiffe://example.org/admin""#)),
            Refused(PARSE),
        ),
        (
            "J87",
            "SUB is another claim",
            WORLD.token(|t| t.claim("SUB", r#""spiffe://example.org/admin""#)),
            Accepted,
        ),
    ]);
}

#[test]
fn id_without_a_path_or_over_2048_bytes_is_not_allowed_j077() {
    let domain = |length: usize| format!("spiffe://{}/client", "a".repeat(length));
    let longest = id_of(2048);
    WORLD.check(&[
        (
            "J77",
            "a trust domain is not a caller",
            subject("spiffe://example.org"),
            NotAllowed,
        ),
        (
            "J78",
            "trust domain of 255",
            subject(&domain(255)),
            Refused("no bundle found for trust domain"),
        ),
        (
            "J78",
            "trust domain of 256",
            subject(&domain(256)),
            Refused(SUBJECT),
        ),
        (
            "D14",
            "as the library",
            subject(&domain(256)),
            Refused(SUBJECT),
        ),
        ("J79", "ID of 2048", subject(&longest), As(&longest)),
        ("J80", "ID of 2049", subject(&id_of(2049)), Refused(SUBJECT)),
        ("J80", "ID of 4021", subject(&id_of(4021)), Refused(SUBJECT)),
    ]);
}

#[test]
fn key_verifies_only_subjects_of_its_trust_domain_j081() {
    let w = &*WORLD;
    let by = |key, subject: &str, kid: &str| {
        Draft::new("ES256", kid)
            .claim("sub", &format!("\"{subject}\""))
            .sign(key)
    };
    let (ours, theirs) = (
        "spiffe://example.org/client",
        "spiffe://partner.example/client",
    );
    w.check(&[
        (
            "J81",
            "no bundle",
            subject("spiffe://elsewhere.example/client"),
            Refused(r#"no bundle found for trust domain "elsewhere.example""#),
        ),
        (
            "J82",
            "below ours",
            subject("spiffe://sub.example.org/client"),
            Refused("no bundle found"),
        ),
        (
            "J82",
            "with a dot",
            subject("spiffe://example.org./client"),
            Refused("no bundle found"),
        ),
        (
            "J83",
            "theirs by our key of the same name",
            by(&w.ec1, theirs, "ec1"),
            Refused(SIGNATURE),
        ),
        (
            "J84",
            "ours by their key",
            by(&w.p1, ours, "p1"),
            Refused(r#"no JWT authority "p1" found for trust domain "example.org""#),
        ),
        (
            "J85",
            "ours by their key of our name",
            by(&w.partner_ec1, ours, "ec1"),
            Refused(SIGNATURE),
        ),
        (
            "J85",
            "theirs by their key of our name",
            by(&w.partner_ec1, theirs, "ec1"),
            As(theirs),
        ),
    ]);
}
