use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dev_agent::{Config, DevAgent};
use http::Request;
use http_body_util::Full;
use hyper::body::Bytes;

use harness::{SERVER_ID, Stack, https::get};

fn seconds_from_now(seconds: i64) -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    now.as_secs().cast_signed() + seconds
}

#[tokio::test]
async fn each_reason_has_its_answer_and_its_log_line() {
    let stack = Stack::new().await;
    let mut server = stack.server(&[]).await;
    let proxy = stack.proxy(server.listening().await, &[]).await;
    let https = stack.https(proxy.listening().await);
    let direct = stack.https(server.listening().await);
    let invalid_token = r#"Bearer realm="spiffe", error="invalid_token""#;
    let invalid_request = r#"Bearer realm="spiffe", error="invalid_request""#;
    let bearer = |token: String| vec![format!("Bearer {token}")];
    let good = || stack.token(|_| ());
    let cases = [
        (
            vec![],
            401,
            r#"Bearer realm="spiffe""#,
            "Malformed header: no bearer token",
        ),
        (
            vec!["Basic dTpw".into()],
            401,
            r#"Bearer realm="spiffe""#,
            "Malformed header: no bearer token",
        ),
        (
            vec!["Bearer".into()],
            400,
            invalid_request,
            "Malformed header: no token after Bearer",
        ),
        (
            vec![format!("Bearer {}", good()), format!("Bearer {}", good())],
            400,
            invalid_request,
            "Malformed header: more than one Authorization header",
        ),
        (
            bearer(
                stack.token(|jwt| {
                    jwt.payload["aud"] = "spiffe://example.org/some-other-server".into()
                }),
            ),
            401,
            invalid_token,
            r#"Invalid token: jwtsvid: expected audience in ["spiffe://example.org/server"] (audience=["spiffe://example.org/some-other-server"])"#,
        ),
        (
            bearer(stack.token(|jwt| jwt.payload["exp"] = seconds_from_now(-1).into())),
            401,
            invalid_token,
            "Invalid token: jwtsvid: token has expired",
        ),
        (
            bearer(stack.token(|jwt| jwt.payload["nbf"] = seconds_from_now(600).into())),
            401,
            invalid_token,
            "Invalid token: jwtsvid: token is not valid yet",
        ),
        (
            bearer(stack.token(|jwt| jwt.header["kid"] = "nobody's\nkey".into())),
            401,
            invalid_token,
            r#"Invalid token: jwtsvid: no JWT authority "nobody's\nkey" found for trust domain "example.org""#,
        ),
        (
            bearer(
                stack.token(|jwt| jwt.payload["sub"] = "spiffe://elsewhere.example/client".into()),
            ),
            401,
            invalid_token,
            r#"Invalid token: jwtsvid: no bundle found for trust domain "elsewhere.example""#,
        ),
        (
            bearer(stack.token(|jwt| jwt.payload["sub"] = "spiffe://EXAMPLE.org/client".into())),
            401,
            invalid_token,
            "Invalid token: jwtsvid: token has an invalid subject claim",
        ),
        (
            bearer(tampered(&good())),
            401,
            invalid_token,
            "Invalid token: jwtsvid: token signature is invalid",
        ),
        (
            bearer("not-a-jwt".into()),
            401,
            invalid_token,
            "Invalid token: jwtsvid: unable to parse JWT token",
        ),
    ];
    for (values, status, challenge, log) in cases {
        let fields: Vec<_> = values
            .iter()
            .map(|value| ("authorization", value.as_str()))
            .collect();
        // The proxy rejects two credentials, so that they are sent to the server directly.
        let https = if fields.len() > 1 { &direct } else { &https };
        let answer = https.send(get(&fields)).await;
        assert_eq!(answer.status, status, "{log}");
        assert_eq!(answer.headers["www-authenticate"], challenge, "{log}");
        assert_eq!(answer.headers["cache-control"], "no-store", "{log}");
        server.logged(log).await;
    }
    assert!(!server.whole_log().await.contains("Request received"));
}

/// Returns the token with another signature of the same length.
fn tampered(token: &str) -> String {
    let (rest, signature) = token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    format!("{rest}.{first}{}", &signature[1..])
}

#[tokio::test]
async fn caller_that_is_not_allowed_learns_nothing_about_what_is_served_j197() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let https = stack.https(server.listening().await);
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/other"),
        ("OPTIONS", "/"),
        ("DELETE", "/"),
        ("get", "/"),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(Full::<Bytes>::default())
            .unwrap();
        assert_eq!(https.send(request).await.status, 401, "{method} {path}");
    }
}

#[tokio::test]
async fn caller_of_another_trust_domain_is_not_allowed_unless_named_j011() {
    let directory = tempfile::tempdir().unwrap();
    let entry = "spiffe://partner.example/caller=unix:uid:0"
        .parse()
        .unwrap();
    let partner = DevAgent::start(Config::new(
        directory.path().join("partner.sock"),
        vec![entry],
    ))
    .await
    .unwrap();
    let stack = Stack::federated(partner.federation()).await;
    let token =
        partner.mint_jwt(&partner.jwt_claims("spiffe://partner.example/caller", &[SERVER_ID]));
    let token = format!("Bearer {token}");
    let request = || get(&[("authorization", &token)]);

    let server = stack.server(&[]).await;
    let answer = stack.https(server.listening().await).send(request()).await;
    assert_eq!(answer.status, 403);
    assert_eq!(
        answer.headers["www-authenticate"],
        r#"Bearer realm="spiffe", error="insufficient_scope""#
    );
    server
        .logged(
            "Not allowed: spiffe://partner.example/caller is not a workload of the trust domain example.org, \
             and only its workloads are allowed without --allow",
        )
        .await;

    let server = stack
        .server(&["--allow", "spiffe://partner.example/other"])
        .await;
    let answer = stack.https(server.listening().await).send(request()).await;
    assert_eq!(answer.status, 403);
    server
        .logged("Not allowed: spiffe://partner.example/caller matches no allowed pattern")
        .await;

    let server = stack
        .server(&["--allow", "spiffe://partner.example/*"])
        .await;
    assert_eq!(
        stack
            .https(server.listening().await)
            .send(request())
            .await
            .status,
        200
    );
}
