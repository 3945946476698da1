use http::{HeaderMap, Method, Request, Version, header::AUTHORIZATION};
use http_body_util::Full;
use hyper::body::Bytes;

use harness::{
    CLIENT_ID, Stack,
    app::{App, SCHEMES, SeenRequest},
    https::Https,
    process::Process,
};

/// A server in front of an application.
struct Fronted {
    stack: Stack,
    app: App,
    server: Process,
    https: Https,
}

impl Fronted {
    async fn new(scheme: &str, args: &[&str]) -> Self {
        let (stack, app) = (Stack::new().await, App::start(scheme).await);
        let args = [&["--upstream", &app.url], args].concat();
        let server = stack.server(&args).await;
        let https = stack.https(server.listening().await);
        Self {
            stack,
            app,
            server,
            https,
        }
    }

    /// Sends a request with these fields over `version`, and returns its status and what the application
    /// saw.
    async fn send(
        &self,
        version: Version,
        method: Method,
        path: &str,
        fields: &[(&str, &str)],
        body: &'static str,
    ) -> (u16, HeaderMap, Vec<SeenRequest>) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let answer = self.https.send_over(version, request).await;
        if answer.status == 200 {
            assert_eq!(answer.body, body);
        }
        (answer.status.as_u16(), answer.headers, self.app.take())
    }
}

#[tokio::test]
async fn an_application_gets_the_request_with_the_caller_s_id_and_without_its_token_u001() {
    for scheme in SCHEMES {
        let fronted = Fronted::new(scheme, &[]).await;
        let bearer = fronted.stack.bearer();
        let port = fronted.https.port();
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let fields = [
                ("authorization", bearer.as_str()),
                ("x-spiffe-id", "spiffe://example.org/admin"),
                ("x_spiffe_id", "spiffe://example.org/admin"),
                ("x-forwarded-for", "192.0.2.1"),
                ("x-mine", "kept"),
            ];
            let (status, answer, seen) = fronted
                .send(version, Method::PUT, "/a/b?c=d", &fields, "a body")
                .await;
            assert_eq!(status, 200, "{scheme} {version:?}");
            assert!(
                !answer.contains_key("x-spiffe-id"),
                "an application's word for an ID does not reach the caller"
            );
            let [(head, body)] = &seen[..] else {
                panic!("{seen:?}");
            };
            assert_eq!((&head.method, &body[..]), (&Method::PUT, &b"a body"[..]));
            assert_eq!(head.uri.path_and_query().unwrap(), "/a/b?c=d");
            let is_http2 = scheme.ends_with("h2c");
            assert_eq!(head.version == Version::HTTP_2, is_http2, "{scheme}");
            let values = |name| head.headers.get_all(name).iter().collect::<Vec<_>>();
            assert_eq!(values("x-spiffe-id"), [CLIENT_ID]);
            assert_eq!(values("x-mine"), ["kept"]);
            assert_eq!(values("x-forwarded-for"), ["127.0.0.1"]);
            assert_eq!(values("x-forwarded-proto"), ["https"]);
            for gone in ["authorization", "x_spiffe_id"] {
                assert!(!head.headers.contains_key(gone), "{gone}");
            }
            let host = if is_http2 {
                head.uri.authority().unwrap().as_str()
            } else {
                head.headers["host"].to_str().unwrap()
            };
            assert_eq!(host, format!("localhost:{port}"), "as the caller sent it");
        }
        let line = fronted.server.logged("Request received").await;
        assert!(line.contains(&format!("caller={CLIENT_ID}")), "{line}");
    }
}

#[tokio::test]
async fn a_request_without_a_valid_token_does_not_reach_the_application_u002() {
    let fronted = Fronted::new("http", &["--public", "/health", "--public", "/static/**"]).await;
    let other = fronted
        .stack
        .token(|claims| claims.payload["aud"] = "other".into());
    let other = format!("Bearer {other}");
    for (path, fields) in [
        ("/", &[] as &[(&str, &str)]),
        ("/", &[("authorization", &other)]),
        ("/", &[("x-spiffe-id", CLIENT_ID)]),
        ("/health/x", &[]),
        ("/static/../secret", &[]),
        ("/static/%2e%2e/secret", &[]),
    ] {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let (status, _, seen) = fronted
                .send(version, Method::POST, path, fields, "a body")
                .await;
            assert_eq!(status, 401, "{path} {fields:?}");
            assert!(seen.is_empty(), "{path} {fields:?}");
        }
    }
}

#[tokio::test]
async fn a_public_path_needs_no_token_and_carries_no_id_u003() {
    let fronted = Fronted::new("http", &["--public", "/health", "--public", "/static/**"]).await;
    let bearer = fronted.stack.bearer();
    for path in ["/health", "/health?verbose", "/static/a/b.css"] {
        for fields in [
            &[] as &[(&str, &str)],
            &[("x-spiffe-id", CLIENT_ID)],
            &[("authorization", "Bearer garbage")],
            &[("authorization", &bearer)],
        ] {
            let (status, _, seen) = fronted
                .send(Version::HTTP_11, Method::GET, path, fields, "")
                .await;
            assert_eq!((status, seen.len()), (200, 1), "{path} {fields:?}");
            let (head, _) = &seen[0];
            assert!(!head.headers.contains_key("x-spiffe-id"), "{fields:?}");
            assert!(!head.headers.contains_key(AUTHORIZATION), "{fields:?}");
        }
    }
}

#[tokio::test]
async fn the_field_for_the_id_and_authorization_are_set_by_flags_u004() {
    let args = ["--caller-header", "X-Caller", "--forward-authorization"];
    let fronted = Fronted::new("http", &args).await;
    let bearer = fronted.stack.bearer();
    let fields = [
        ("authorization", bearer.as_str()),
        ("x-caller", "spiffe://example.org/admin"),
        ("x-spiffe-id", "spiffe://example.org/admin"),
    ];
    let (status, _, seen) = fronted
        .send(Version::HTTP_11, Method::GET, "/", &fields, "")
        .await;
    assert_eq!(status, 200);
    let headers = &seen[0].0.headers;
    let values: Vec<_> = headers.get_all("x-caller").iter().collect();
    assert_eq!(values, [CLIENT_ID]);
    assert_eq!(headers[AUTHORIZATION], bearer.as_str());
    assert!(!headers.contains_key("x-spiffe-id"));
}

#[tokio::test]
async fn an_application_with_an_x509_svid_is_verified_by_its_spiffe_id_u005() {
    let stack = Stack::new().await;
    let app = stack.server(&[]).await;
    let url = format!("https://localhost:{}", app.listening().await);
    let token = stack.token(|_| ());
    for (id, status) in [
        // The inner server gets the token, so that it answers.
        (harness::SERVER_ID, 200),
        ("spiffe://example.org/other", 502),
    ] {
        let args = [
            "--upstream",
            &url,
            "--upstream-id",
            id,
            "--forward-authorization",
        ];
        let server = stack.server(&args).await;
        let https = stack.https(server.listening().await);
        assert_eq!(https.status(&token).await, status, "{id}");
        if status == 502 {
            server.logged("is not who it should be").await;
        }
    }
}
