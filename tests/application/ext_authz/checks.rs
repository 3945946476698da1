use http::{Request, Version};
use http_body_util::Full;
use prost::Message;
use server::ext_authz::pb::check_response::HttpResponse;
use spiffe::SpiffeId;

use harness::{
    CLIENT_ID, SERVER_ID,
    admin::{ADMIN, Admin},
    wait,
};

use super::{Checking, PATH, denied, framed, question, value};
use crate::caller::respond;

#[tokio::test]
async fn the_check_of_an_allowed_caller_gives_its_id_and_removes_its_token_u017() {
    for (address, args, header, removed) in [
        (
            "127.0.0.1:0",
            &[] as &[&str],
            "x-spiffe-id",
            &["authorization"] as &[&str],
        ),
        (
            "unix",
            &["--caller-header", "x-id", "--forward-authorization"],
            "x-id",
            &[],
        ),
    ] {
        let checking = Checking::on(address, args).await;
        let token = checking.stack.token(|_| ());
        let bearer = format!("Bearer {token}");
        let fields = [
            ("authorization", bearer.as_str()),
            (header, "spiffe://evil.example/x"),
        ];
        let response = checking.check(&fields).await;
        assert_eq!(response.status.unwrap().code, 0);
        let Some(HttpResponse::OkResponse(allowed)) = response.http_response else {
            panic!("it is denied");
        };
        assert_eq!(value(&allowed.headers, header), Some(CLIENT_ID));
        assert_eq!(allowed.headers_to_remove, removed);
        let line = checking.server.logged("Request received").await;
        assert!(
            line.contains(CLIENT_ID) && line.contains("192.0.2.7"),
            "{line}"
        );
        let log = checking.server.log().join("\n");
        assert!(!log.contains(&token) && !log.contains("secret=7"), "{log}");
    }
}

#[tokio::test]
async fn the_check_of_a_refused_caller_has_the_answer_of_a_server_u017() {
    let checking = Checking::new(&["--allow", "spiffe://example.org/client"]).await;
    let claims =
        |subject: &str, audience: &str| checking.stack.agent.jwt_claims(subject, &[audience]);
    let mint = |claims| format!("Bearer {}", checking.stack.agent.mint_jwt(&claims));
    let other_audience = mint(claims(CLIENT_ID, "spiffe://example.org/other"));
    let not_allowed = mint(claims("spiffe://example.org/stranger", SERVER_ID));
    for (authorization, status, said) in [
        (None, 401, r#"Bearer realm="spiffe""#),
        (Some("Basic dTpw"), 401, r#"Bearer realm="spiffe""#),
        (
            Some(other_audience.as_str()),
            401,
            r#"Bearer realm="spiffe", error="invalid_token""#,
        ),
        (
            Some("Bearer a,Bearer b"),
            400,
            r#"Bearer realm="spiffe", error="invalid_request""#,
        ),
        (
            Some(&not_allowed),
            403,
            r#"Bearer realm="spiffe", error="insufficient_scope""#,
        ),
    ] {
        let fields: Vec<_> = authorization
            .map(|value| ("authorization", value))
            .into_iter()
            .collect();
        let denied = checking.denied(&fields).await;
        assert_eq!(denied.status.unwrap().code, status, "{authorization:?}");
        assert_eq!(value(&denied.headers, "www-authenticate"), Some(said));
        assert_eq!(value(&denied.headers, "cache-control"), Some("no-store"));
        assert!(denied.body.starts_with(&status.to_string()));
    }
    let line = checking
        .server
        .logged("Not allowed: spiffe://example.org/stranger")
        .await;
    assert!(line.contains("peer=192.0.2.7:4711"), "{line}");

    // A server that can't verify fails no call, because a gateway might let its requests pass then.
    checking
        .stack
        .agent
        .withdraw(&SpiffeId::new(SERVER_ID).unwrap());
    let bearer = checking.stack.bearer();
    let fields = [("authorization", bearer.as_str())];
    let is_unavailable = async || {
        let response = checking.check(&fields).await.http_response;
        matches!(response, Some(HttpResponse::DeniedResponse(denied))
            if denied.status.unwrap().code == 503 && value(&denied.headers, "retry-after").is_some())
    };
    wait::until(is_unavailable).await;
}

#[tokio::test]
async fn the_policy_decides_and_a_request_without_a_caller_loses_forged_ids_u017() {
    let other = ["--allow", "spiffe://example.org/other"];
    let observe = [&other[..], &["--enforce", "observe"]].concat();
    for (args, has_token, id) in [
        (&["--public", "/orders"][..], false, None),
        (&["--public", "/orders"], true, None),
        (&observe, false, None),
        (&observe, true, Some(CLIENT_ID)),
    ] {
        let checking = Checking::new(args).await;
        let bearer = checking.stack.bearer();
        let token = has_token.then_some(("authorization", bearer.as_str()));
        let fields: Vec<_> = token.into_iter().collect();
        let Some(HttpResponse::OkResponse(allowed)) = checking.check(&fields).await.http_response
        else {
            panic!("{args:?}: it is denied");
        };
        assert_eq!(value(&allowed.headers, "x-spiffe-id"), id, "{args:?}");
        let is_removed = allowed
            .headers_to_remove
            .iter()
            .any(|one| one == "x-spiffe-id");
        assert_eq!(is_removed, id.is_none(), "{args:?}");
    }
    // Paths are compared as a whole.
    let checking = Checking::new(&["--public", "/order"]).await;
    assert_eq!(checking.denied(&[]).await.status.unwrap().code, 401);
}

#[tokio::test]
async fn a_call_that_is_not_a_check_is_answered_by_its_fault_u018() {
    let checking = Checking::new(&ADMIN).await;
    let whole = framed(&question("/", &[]).encode_to_vec());
    let long = vec![0; 1 << 20];
    for (path, body, code) in [
        (
            "/envoy.service.auth.v2.Authorization/Check",
            whole.clone(),
            "12",
        ),
        ("/", whole.clone(), "12"),
        (PATH, whole[..whole.len() - 1].to_vec(), "13"),
        (PATH, [&whole[..], &whole].concat(), "13"),
        (PATH, Vec::new(), "13"),
        (PATH, framed(b"no message"), "13"),
        (PATH, [framed(&long), long].concat(), "2"),
    ] {
        let length = body.len();
        let answer = checking.call(path, body).await;
        assert_eq!(
            (answer.code.as_str(), answer.message.len()),
            (code, 0),
            "{path} {length}"
        );
    }
    for (version, path, status) in [
        (Version::HTTP_11, PATH, 415),
        (Version::HTTP_2, PATH, 415),
        (Version::HTTP_11, "/", 404),
    ] {
        let request = Request::get(format!("http://authz{path}")).header("host", "authz");
        let request = request.body(Full::default()).unwrap();
        let response = respond(&checking.address, version, request).await;
        assert_eq!(response.status(), status, "{version:?} {path}");
    }
    let answer = checking.denied(&[]).await;
    assert_eq!(answer.status.unwrap().code, 401);
    // A request that can't be read is denied, whatever the gateway does about calls that fail.
    let answer = checking
        .call(PATH, framed(&question("no path", &[]).encode_to_vec()))
        .await;
    assert_eq!(denied(answer.decoded()).status.unwrap().code, 400);
    let line = checking.server.logged("Malformed check").await;
    assert!(line.contains("reason=malformed_check"), "{line}");
    let page = Admin::of(&checking.server).await.page().await.body;
    assert!(page.contains("malformed_check</span> 400"), "{page}");
}

#[tokio::test]
async fn the_access_log_has_the_request_that_a_check_asks_about_u017() {
    let checking = Checking::new(&["--log-requests", "all"]).await;
    let bearer = checking.stack.bearer();
    checking.check(&[("authorization", &bearer)]).await;
    let line = checking.server.logged("INFO request ").await;
    let allowed =
        format!("caller={CLIENT_ID} method=POST path=/orders protocol=HTTP/2.0 status=200");
    assert!(line.contains(&allowed), "{line}");
    let both = line.contains("peer=192.0.2.7:4711 gateway=127.0.0.1:");
    assert!(both && line.contains("verification_ms="), "{line}");
    checking.denied(&[]).await;
    let line = checking.server.logged("reason=no_token bytes_in").await;
    assert!(
        line.contains("INFO request method=POST path=/orders"),
        "{line}"
    );
}
