use h2::ext::Protocol;
use http::{
    HeaderValue, Method, Request, Version,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};

use harness::{CLIENT_ID, SERVER_ID, Stack, https::get};

use super::{Guarded, POLICY, PolicyFile};

const ADMIN_ID: &str = "spiffe://example.org/admin";

#[tokio::test]
async fn only_requests_that_a_rule_allows_reach_the_application_u020() {
    let guarded = Guarded::new(POLICY, &[]).await;
    let client = guarded.token(CLIENT_ID, &[SERVER_ID]);
    let other = guarded.token("spiffe://example.org/other", &[SERVER_ID]);
    for (method, path, token, status, caller) in [
        ("GET", "/healthz", "", 200, None),
        ("GET", "/healthz?x", "garbage", 200, None),
        ("HEAD", "/healthz", &client, 200, None),
        ("GET", "/orders", &client, 200, Some(CLIENT_ID)),
        ("GET", "/orders/7?x=/healthz", &client, 200, Some(CLIENT_ID)),
        ("GET", "/orders", "", 401, None),
        ("GET", "/orders", &other, 403, None),
        ("POST", "/orders", &client, 403, None),
        ("POST", "/healthz", &client, 403, None),
        ("POST", "/healthz", "", 401, None),
        ("GET", "/orders/../admin/x", &client, 403, None),
        ("GET", "/nowhere", &client, 403, None),
        ("GET", "/nowhere", "", 401, None),
    ] {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let method: Method = method.parse().unwrap();
            let (found, answer) = guarded.send(version, &method, path, token).await;
            assert_eq!(found, status, "{method} {path}");
            let seen = guarded.app.take();
            assert_eq!(seen.len(), usize::from(status == 200), "{method} {path}");
            let id = seen
                .first()
                .and_then(|(head, _)| head.headers.get("x-spiffe-id"));
            assert_eq!(id.map(|id| id.to_str().unwrap()), caller, "{method} {path}");
            if status == 403 {
                let challenge = r#"Bearer realm="spiffe", error="insufficient_scope""#;
                assert_eq!(answer[WWW_AUTHENTICATE], challenge, "{method} {path}");
            }
        }
    }
    for text in [
        "Not allowed: spiffe://example.org/other is not a caller of rule \"orders\"",
        "Not allowed: spiffe://example.org/client sent a request that no rule matches",
    ] {
        guarded.server.logged(text).await;
    }
    let line = guarded.server.logged("no rule matches").await;
    assert!(line.contains("method=POST path=/orders"), "{line}");
}

#[tokio::test]
async fn a_token_must_have_an_audience_of_the_rule_that_decides_u021() {
    let guarded = Guarded::new(POLICY, &[]).await;
    let token = |audiences: &[&str]| guarded.token(CLIENT_ID, audiences);
    for (token, orders, admin) in [
        (token(&[SERVER_ID]), 200, 401),
        (token(&["admin-api"]), 401, 200),
        (token(&["other", "admin-api", SERVER_ID]), 200, 200),
        (token(&["other"]), 401, 401),
    ] {
        // Each token is verified by one rule, and found in the cache by the other.
        for path in ["/orders", "/admin/x", "/orders", "/admin/x"] {
            let status = if path == "/orders" { orders } else { admin };
            assert_eq!(guarded.get(path, &token).await, status, "{path}");
        }
    }
    let line = guarded.server.logged("by rule \"admin\"").await;
    assert!(
        line.contains(r#"expected audience in ["admin-api"]"#),
        "{line}"
    );
    let stranger = guarded.token("spiffe://example.org/other", &["admin-api"]);
    assert_eq!(guarded.get("/admin/x", &stranger).await, 403);
    let admin = guarded.token(ADMIN_ID, &["admin-api"]);
    assert_eq!(guarded.get("/admin/x", &admin).await, 200);
}

/// Lets the client send everything but GET to `/orders`.
const NO_GET: &str = r#"
[[rule]]
name = "read"
methods = ["GET"]
paths = ["/orders"]
callers = ["spiffe://example.org/admin"]

[[rule]]
paths = ["/**"]
callers = ["spiffe://example.org/client"]
"#;

#[tokio::test]
async fn a_websocket_over_http2_is_decided_as_the_get_that_the_application_gets_u020() {
    let guarded = Guarded::new(NO_GET, &[]).await;
    let token = guarded.token(CLIENT_ID, &[SERVER_ID]);
    assert_eq!(guarded.get("/orders", &token).await, 403);
    let tls = guarded.https.connect(b"h2").await;
    let (sender, connection) = h2::client::handshake(tls).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    // SETTINGS have come when another request is answered.
    let other = Request::get("https://a/x").body(()).unwrap();
    let (answer, _) = sender.send_request(other, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 401);
    // The application gets the GET. It does not speak WebSocket, so that its answer is not forwarded.
    for (path, status, reaches) in [("/orders", 403, false), ("/other", 502, true)] {
        let connect = Request::connect(format!("https://a{path}"))
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .extension(Protocol::from_static("websocket"));
        let sent = sender.send_request(connect.body(()).unwrap(), false);
        let (answer, _stream) = sent.unwrap();
        assert_eq!(answer.await.unwrap().status(), status, "{path}");
        let seen = guarded.app.take();
        let seen = seen
            .iter()
            .map(|(head, _)| (&head.method, head.uri.path(), &head.headers["x-spiffe-id"]));
        let id = HeaderValue::from_static(CLIENT_ID);
        let expected = reaches.then_some((&Method::GET, path, &id));
        assert_eq!(Vec::from_iter(seen), Vec::from_iter(expected));
    }
}

#[tokio::test]
async fn the_built_in_answer_obeys_the_policy_u029() {
    let stack = Stack::new().await;
    for (rule, without_token, with_token) in [
        (
            "methods = [\"GET\"]\npaths = [\"/\"]\npublic = true",
            200,
            200,
        ),
        (
            "paths = [\"/\"]\ncallers = [\"spiffe://example.org/client\"]",
            401,
            200,
        ),
        (
            "paths = [\"/\"]\ncallers = [\"spiffe://example.org/other\"]",
            401,
            403,
        ),
        ("paths = [\"/x\"]\npublic = true", 401, 403),
    ] {
        let file = PolicyFile::new(&format!("[[rule]]\n{rule}\n"));
        let server = stack.server(&["--policy", &file.text()]).await;
        let https = stack.https(server.listening().await);
        assert_eq!(https.send(get(&[])).await.status, without_token, "{rule}");
        assert_eq!(
            https.status(&stack.token(|_| ())).await,
            with_token,
            "{rule}"
        );
        let line = server.logged("policy in force").await;
        assert!(line.contains("rules=1"), "{line}");
    }
}
