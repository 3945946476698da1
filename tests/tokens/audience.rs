use common::bearer::{Allow, Authenticator, Policy};
use harness::{SERVER_ID, Stack, process};

use crate::world::{
    Expected::{Accepted, Refused},
    WORLD, authenticate, check, policy,
};

const PARSE: &str = "unable to parse JWT token";
const AUDIENCE: &str = r#"expected audience in ["spiffe://example.org/server"] (audience=["#;

fn aud(json: &str) -> String {
    WORLD.token(|t| t.claim("aud", json))
}

/// Returns a token with `count` other audiences, and then ours.
fn many(count: usize) -> String {
    let mut all: Vec<String> = (0..count).map(|n| format!("aud-{n}")).collect();
    all.push(SERVER_ID.to_owned());
    aud(&serde_json::to_string(&all).unwrap())
}

#[test]
fn token_without_the_expected_audience_is_refused_j088() {
    WORLD.check(&[
        (
            "J88",
            "missing",
            WORLD.token(|t| t.no_claim("aud")),
            Refused(PARSE),
        ),
        ("J89", "null", aud("null"), Refused(PARSE)),
        ("J89", "number", aud("1"), Refused(PARSE)),
        (
            "J89",
            "object",
            aud(r#"{"a":"spiffe://example.org/server"}"#),
            Refused(PARSE),
        ),
        ("J90", "empty", aud(r#""""#), Refused(AUDIENCE)),
        ("J91", "empty array", aud("[]"), Refused(PARSE)),
        (
            "J92",
            "number among them",
            aud(r#"["spiffe://example.org/server",1]"#),
            Refused(PARSE),
        ),
        (
            "J92",
            "null among them",
            aud(r#"["spiffe://example.org/server",null]"#),
            Refused(PARSE),
        ),
        (
            "J92",
            "array among them",
            aud(r#"[["spiffe://example.org/server"]]"#),
            Refused(PARSE),
        ),
        (
            "J93",
            "another",
            aud(r#""spiffe://example.org/some-other-server""#),
            Refused(r#"(audience=["spiffe://example.org/some-other-server"])"#),
        ),
        (
            "J94",
            "other case of the host",
            aud(r#""spiffe://EXAMPLE.org/server""#),
            Refused(AUDIENCE),
        ),
        (
            "J94",
            "other case of the path",
            aud(r#""spiffe://example.org/Server""#),
            Refused(AUDIENCE),
        ),
        (
            "J95",
            "trailing slash",
            aud(r#""spiffe://example.org/server/""#),
            Refused(AUDIENCE),
        ),
        (
            "J95",
            "prefix",
            aud(r#""spiffe://example.org/serve""#),
            Refused(AUDIENCE),
        ),
        (
            "J95",
            "suffix",
            aud(r#""spiffe://example.org/server2""#),
            Refused(AUDIENCE),
        ),
        (
            "J96",
            "padded",
            aud(r#"" spiffe://example.org/server ""#),
            Refused(AUDIENCE),
        ),
        (
            "J96",
            "a list in a string",
            aud(r#""spiffe://example.org/server,x""#),
            Refused(AUDIENCE),
        ),
        (
            "J96",
            "NUL",
            aud(r#""spiffe://example.org/server\u0000""#),
            Refused(AUDIENCE),
        ),
        ("J97", "star", aud(r#""*""#), Refused(AUDIENCE)),
        (
            "J97",
            "the trust domain",
            aud(r#""spiffe://example.org""#),
            Refused(AUDIENCE),
        ),
        ("J98", "32", many(31), Accepted),
        ("J99", "33", many(32), Refused(PARSE)),
        ("D15", "at most 32 audiences", many(32), Refused(PARSE)),
        (
            "J100",
            "twice",
            WORLD.token(|t| t.claim_again("aud", r#""spiffe://example.org/server""#)),
            Refused(PARSE),
        ),
        (
            "J104",
            "the same twice in the array",
            aud(r#"["spiffe://example.org/server","spiffe://example.org/server"]"#),
            Accepted,
        ),
    ]);
}

#[test]
fn any_of_two_expected_audiences_is_accepted_j103() {
    let mut policy = policy();
    policy.audiences = vec![SERVER_ID.into(), "https://api.example.org".into()];
    let authenticator = Authenticator::new(WORLD.bundles(&[]), policy);
    check(
        &authenticator,
        &[
            (
                "J103",
                "the second",
                aud(r#""https://api.example.org""#),
                Accepted,
            ),
            (
                "J103",
                "the first",
                aud(r#""spiffe://example.org/server""#),
                Accepted,
            ),
            (
                "J103",
                "a third",
                aud(r#""https://api.example.com""#),
                Refused("expected audience in"),
            ),
        ],
    );
}

/// Any caller can cause this line, so that it must be short whatever the token contains.
#[test]
fn log_line_holds_few_of_many_audiences_j201() {
    let of = |audience: String| {
        let audiences = serde_json::to_string(&vec![audience; 28]).unwrap();
        let token = WORLD.token(|t| t.claim("aud", &audiences));
        authenticate(&WORLD.authenticator(), &token)
            .unwrap_err()
            .to_string()
    };
    let log = of("other".to_owned());
    let four = r#"(audience=["other", "other", "other", "other", "…"])"#;
    assert!(log.ends_with(four), "{log}");
    let log = of("\u{85}".repeat(100));
    assert!(log.len() < 4096, "{} bytes", log.len());
}

/// "J101" and "D4": an authenticator must expect an audience; "J102": the audience must not be
/// empty.
#[test]
fn authenticator_without_an_expected_audience_is_refused_j101() {
    for audiences in [
        vec![],
        vec![String::new()],
        vec![SERVER_ID.into(), String::new()],
    ] {
        let policy = Policy::new(audiences, Allow::default());
        let made = std::panic::catch_unwind(|| Authenticator::new(WORLD.bundles(&[]), policy));
        assert!(made.is_err());
    }
}

#[tokio::test]
async fn server_refuses_to_start_with_an_empty_audience_j102() {
    let stack = Stack::new().await;
    for args in [["--audience", ""], ["--audience", "a\nb"]] {
        let output = process::output("server", &stack.agent.endpoint(), &args).await;
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("an audience must not be empty"), "{text}");
    }
}
