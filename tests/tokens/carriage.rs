use harness::{CLIENT_ID, raw::Client};

use crate::fixture::{Fixture, NONE, bearer, request};

const REQUEST: Option<&str> = Some(r#"Bearer realm="spiffe", error="invalid_request""#);
const SCOPE: Option<&str> = Some(r#"Bearer realm="spiffe", error="insufficient_scope""#);
const TOKEN: Option<&str> = Some(r#"Bearer realm="spiffe", error="invalid_token""#);

#[tokio::test]
async fn authorization_header_must_have_one_bearer_token_j173() {
    let fixture = Fixture::new(&[]).await;
    let t = &fixture.token;
    let lines = |lines: String| request("GET /", lines);
    let long = |length: usize| bearer(format!("Bearer {}", "a".repeat(length)));
    fixture
        .check(&[
            ("J173", "nothing", lines(String::new()), 401, NONE),
            ("J174", "bearer", bearer(format!("bearer {t}")), 200, None),
            ("J174", "BEARER", bearer(format!("BEARER {t}")), 200, None),
            (
                "J175",
                "two spaces",
                bearer(format!("Bearer  {t}")),
                200,
                None,
            ),
            (
                "J147",
                "whitespace after the value is none of it",
                bearer(format!("Bearer {t} \t ")),
                200,
                None,
            ),
            (
                "J147",
                "whitespace within",
                bearer(format!("Bearer {} {}", &t[..9], &t[9..])),
                400,
                REQUEST,
            ),
            ("J176", "tab", bearer(format!("Bearer\t{t}")), 400, REQUEST),
            ("J177", "no space", bearer(format!("Bearer{t}")), 401, NONE),
            ("J178", "alone", bearer("Bearer"), 400, REQUEST),
            ("J133", "empty token", bearer("Bearer "), 400, REQUEST),
            (
                "J179",
                "two tokens",
                bearer(format!("Bearer {t} {t}")),
                400,
                REQUEST,
            ),
            (
                "J179",
                "a list of tokens",
                bearer(format!("Bearer {t}, {t}")),
                400,
                REQUEST,
            ),
            (
                "J179",
                "a list",
                bearer(format!("Bearer {t}, Bearer {t}")),
                400,
                REQUEST,
            ),
            (
                "J180",
                "the same twice",
                lines(format!(
                    "authorization: Bearer {t}\r\nauthorization: Bearer {t}\r\n"
                )),
                400,
                REQUEST,
            ),
            (
                "J180",
                "two",
                lines(format!(
                    "authorization: Bearer {t}\r\nAuthorization: Bearer x\r\n"
                )),
                400,
                REQUEST,
            ),
            (
                "J180",
                "two schemes",
                lines(format!(
                    "authorization: Basic x\r\nauthorization: Bearer {t}\r\n"
                )),
                400,
                REQUEST,
            ),
            ("J181", "Basic", bearer("Basic dTpw"), 401, NONE),
            ("J181", "Digest", bearer(format!("Digest {t}")), 401, NONE),
            (
                "J181",
                "Negotiate",
                bearer(format!("Negotiate {t}")),
                401,
                NONE,
            ),
            ("J181", "DPoP", bearer(format!("DPoP {t}")), 401, NONE),
            (
                "J182",
                "quoted",
                bearer(format!("Bearer \"{t}\"")),
                400,
                REQUEST,
            ),
            (
                "J182",
                "semicolon",
                bearer(format!("Bearer {t};x")),
                400,
                REQUEST,
            ),
            (
                "J182",
                "obs-text",
                bearer(b"Bearer \x80\xff\xfe"),
                400,
                REQUEST,
            ),
            (
                "J182",
                "obs-text before the scheme",
                bearer(b"\xffBearer x"),
                401,
                NONE,
            ),
            (
                "J151",
                "JSON serialization",
                bearer("Bearer {\"payload\":\"\"}"),
                400,
                REQUEST,
            ),
            (
                "J186",
                "Proxy-Authorization",
                lines(format!("proxy-authorization: Bearer {t}\r\n")),
                401,
                NONE,
            ),
            (
                "J186",
                "X-Forwarded-Access-Token",
                lines(format!("x-forwarded-access-token: {t}\r\n")),
                401,
                NONE,
            ),
            (
                "J186",
                "cookie",
                lines(format!(
                    "cookie: authorization=Bearer {t}; access_token={t}\r\n"
                )),
                401,
                NONE,
            ),
            ("J199", "more than 8 KiB", long(8 * 1024), 431, None),
            (
                "J44",
                "a kid of 47 kB",
                bearer(format!(
                    "Bearer {}",
                    fixture
                        .stack
                        .token(|jwt| jwt.header["kid"] = "k".repeat(47_000).into())
                )),
                431,
                None,
            ),
            ("J153", "more than 32 KiB", long(60_000), 431, None),
            ("J154", "70 kB", long(70_000), 431, None),
        ])
        .await;
}

#[tokio::test]
async fn token_outside_of_the_header_is_ignored_j183() {
    let mut fixture = Fixture::new(&[]).await;
    let t = &fixture.token;
    let query = format!("GET /?access_token={t}");
    let form = format!("access_token={t}");
    let length = form.len();
    let in_form = request(
        "POST /",
        format!("content-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n"),
    );
    let in_trailer = request(
        "POST /",
        "transfer-encoding: chunked\r\ntrailer: authorization\r\n",
    );
    let trailer = format!("0\r\nauthorization: Bearer {t}\r\n\r\n");
    let good = format!("authorization: Bearer {t}\r\n");
    fixture
        .check(&[
            ("J183", "query alone", request(&query, ""), 401, NONE),
            (
                "J184",
                "the header decides, for",
                request(&query, &good),
                200,
                None,
            ),
            (
                "J184",
                "the header decides, against",
                request(&query, "authorization: Bearer a.b.c\r\n"),
                401,
                TOKEN,
            ),
            (
                "J185",
                "form",
                [&in_form, form.as_bytes()].concat(),
                401,
                NONE,
            ),
            (
                "J187",
                "trailer",
                [&in_trailer, trailer.as_bytes()].concat(),
                401,
                NONE,
            ),
        ])
        .await;
    fixture.server.logged("Malformed header").await;
    let log = fixture.server.whole_log().await;
    assert!(!log.contains(t), "J183: it is not logged");
}

#[tokio::test]
async fn caller_is_allowed_only_by_policy_j188() {
    let fixture = Fixture::new(&["--allow", CLIENT_ID]).await;
    let of = |id: &str| bearer(format!("Bearer {}", fixture.token_of(id)));
    fixture
        .check(&[
            ("J188", "the one that is named", of(CLIENT_ID), 200, None),
            (
                "J188",
                "another",
                of("spiffe://example.org/other"),
                403,
                SCOPE,
            ),
            (
                "J189",
                "a longer name",
                of("spiffe://example.org/client2"),
                403,
                SCOPE,
            ),
            (
                "J189",
                "below",
                of("spiffe://example.org/client/x"),
                403,
                SCOPE,
            ),
            (
                "J189",
                "other case",
                of("spiffe://example.org/Client"),
                403,
                SCOPE,
            ),
            (
                "J77",
                "the trust domain",
                of("spiffe://example.org"),
                403,
                SCOPE,
            ),
            (
                "J79",
                "an ID of 2048 bytes",
                of(&format!("spiffe://example.org/{}", "a".repeat(2027))),
                403,
                SCOPE,
            ),
            (
                "J190",
                "another form of the same ID",
                of("SPIFFE://EXAMPLE.org/client"),
                401,
                TOKEN,
            ),
        ])
        .await;
    let refused = Client::sending(&fixture.https, of("spiffe://example.org/other"))
        .await
        .answer()
        .await
        .unwrap();
    assert_eq!(
        refused.body, b"403 Forbidden\n",
        "J188: it does not say who is allowed"
    );
}
