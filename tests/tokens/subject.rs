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
fn subject_that_is_not_a_canonical_spiffe_id_is_refused_j062() {
    let ids = [
        ("J62", "empty", ""),
        ("J63", "no scheme", "example.org/client"),
        ("J63", "http", "http://example.org/client"),
        ("J63", "no authority", "spiffe:/x"),
        ("J64", "upper case", "SPIFFE://example.org/client"),
        ("J65", "upper case", "spiffe://EXAMPLE.org/client"),
        ("D13", "as go-spiffe", "Spiffe://Example.org/client"),
        ("J66", "query", "spiffe://example.org/client?a=b"),
        ("J67", "fragment", "spiffe://example.org/client#x"),
        ("J68", "user", "spiffe://u@example.org/client"),
        ("J69", "port", "spiffe://example.org:443/client"),
        ("J70", "escape", "spiffe://example.org/%63lient"),
        ("J71", "slash at the end", "spiffe://example.org/client/"),
        ("J71", "slash alone", "spiffe://example.org/"),
        ("J72", "empty segment", "spiffe://example.org//client"),
        ("J73", "one dot", "spiffe://example.org/./client"),
        ("J73", "two dots", "spiffe://example.org/x/../client"),
        ("J74", "Cyrillic", "spiffe://example.org/cli\u{435}nt"),
        ("J75", "space before", " spiffe://example.org/client"),
        ("J75", "space after", "spiffe://example.org/client "),
        ("J75", "NUL", "spiffe://example.org/client\0"),
        ("J75", "line feed", "spiffe://example.org/client\n"),
        ("J76", "IPv6", "spiffe://[::1]/client"),
        ("J76", "no trust domain", "spiffe:///client"),
    ];
    WORLD.check(&ids.map(|(number, what, id)| (number, what, subject(id), Refused(SUBJECT))));
    let dots = "spiffe://example.org/.../client";
    WORLD.check(&[("J73", "three dots are a name", subject(dots), As(dots))]);
}

#[test]
fn subject_that_is_not_one_string_is_refused_j060() {
    const ADMIN: &str = r#""spiffe://example.org/admin""#;
    let claim = |json| WORLD.token(|t| t.claim("sub", json));
    let again = |name| WORLD.token(|t| t.claim_again(name, ADMIN));
    let list = claim(r#"["spiffe://example.org/client"]"#);
    let missing = WORLD.token(|t| t.no_claim("sub"));
    let other = WORLD.token(|t| t.claim("SUB", ADMIN));
    WORLD.check(&[
        ("J60", "missing", missing, Refused(PARSE)),
        ("J61", "null", claim("null"), Refused(PARSE)),
        ("J61", "number", claim("1"), Refused(PARSE)),
        ("J61", "array", list, Refused(PARSE)),
        ("J86", "twice", again("sub"), Refused(PARSE)),
        ("J86", "twice, escaped", again(r"\u0073ub"), Refused(PARSE)),
        ("J87", "SUB is another claim", other, Accepted),
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
