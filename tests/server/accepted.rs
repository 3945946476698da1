use http::{Method, Request, Version};
use http_body_util::Full;
use hyper::body::Bytes;
use serve::body;

use harness::{Stack, https::get, proxy_stack::ProxyStack};

#[tokio::test]
async fn request_of_the_client_crosses_the_proxy_and_is_answered() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let proxy = stack.proxy(server.listening().await, &[]).await;

    let output = stack.client(proxy.listening().await, &[]).await;

    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"Success!!!");
    assert_eq!(output.stderr, b"");
    proxy.logged("GET / ").await;
    let received = server.logged("Request received").await;
    assert!(
        received.contains("caller=spiffe://example.org/client"),
        "{received}"
    );
}

#[tokio::test]
async fn both_http_versions_are_spoken_on_either_side() {
    for upstream_alpn in ["h2", "http/1.1"] {
        let stack = ProxyStack::answering(&[upstream_alpn], &[], async |request| {
            body::text(
                http::StatusCode::OK,
                format!("{:?} {}", request.version(), request.uri().path()),
            )
        })
        .await;
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let answer = stack.https.send_over(version, get(&[])).await;
            let spoken = if upstream_alpn == "h2" {
                "HTTP/2.0"
            } else {
                "HTTP/1.1"
            };
            assert_eq!(answer.body, format!("{spoken} /"), "{version:?}");
            assert_eq!((answer.status.as_u16(), answer.version), (200, version));
        }
    }
}

#[tokio::test]
async fn the_server_speaks_both_http_versions() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let https = stack.https(server.listening().await);
    let token = stack.bearer();
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let answer = https
            .send_over(version, get(&[("authorization", &token)]))
            .await;
        assert_eq!((answer.status.as_u16(), answer.version), (200, version));
        assert_eq!(answer.body, "Success!!!");
    }
}

#[tokio::test]
async fn head_is_answered_without_a_body_over_both_http_versions() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let proxy = stack.proxy(server.listening().await, &[]).await;
    let token = stack.bearer();
    for (port, version) in [
        (server.listening().await, Version::HTTP_11),
        (server.listening().await, Version::HTTP_2),
        (proxy.listening().await, Version::HTTP_11),
        (proxy.listening().await, Version::HTTP_2),
    ] {
        for (token, status, length) in [(token.as_str(), 200, "10"), ("none", 401, "17")] {
            let mut request = get(&[("authorization", token)]);
            *request.method_mut() = Method::HEAD;
            let answer = stack.https(port).send_over(version, request).await;
            assert_eq!(answer.status, status, "{port} {version:?}");
            assert_eq!(
                answer.headers["content-length"], length,
                "{port} {version:?}"
            );
            assert_eq!(answer.body, "");
        }
    }
}

#[tokio::test]
async fn only_slash_is_served_and_forwarded() {
    let stack = Stack::new().await;
    let mut server = stack.server(&[]).await;
    let mut proxy = stack.proxy(server.listening().await, &[]).await;
    let token = stack.bearer();
    for (port, path, status) in [
        (server.listening().await, "/other", 404),
        (proxy.listening().await, "/other", 404),
        (proxy.listening().await, "//", 404),
        (proxy.listening().await, "/?a=b", 200),
    ] {
        let request = Request::get(path)
            .header("authorization", &token)
            .body(Full::<Bytes>::default())
            .unwrap();
        assert_eq!(
            stack.https(port).send(request).await.status,
            status,
            "{path}"
        );
    }
    let log = server.whole_log().await;
    let forwarded = log.matches("Request received").count();
    assert_eq!(forwarded, 2, "a request for another path is not forwarded");
    assert!(
        !proxy.whole_log().await.contains("a=b"),
        "a query is not logged"
    );
}

#[tokio::test]
async fn the_upstream_gets_no_field_that_the_proxy_removes() {
    let stack = ProxyStack::answering(&["http/1.1"], &[], async |request| {
        let mut fields: Vec<_> = request
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .filter(|field| !field.starts_with("via: 1.1 spiffe-jwt-proxy-"))
            .collect();
        fields.sort_unstable();
        body::text(http::StatusCode::OK, fields.join("\n"))
    })
    .await;
    let (upstream, port) = (stack.upstream, stack.https.port());

    let fields = [
        ("authorization", "Bearer a.b.c"),
        ("connection", "x-hop, authorization"),
        ("x-hop", "1"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-spiffe-id", "spiffe://example.org/admin"),
        ("accept", "text/plain"),
    ];
    let answer = stack.https.send(get(&fields)).await;

    let expected = format!(
        "accept: text/plain\nauthorization: Bearer a.b.c\nhost: localhost:{upstream}\n\
         x-forwarded-for: 127.0.0.1\nx-forwarded-host: localhost:{port}\nx-forwarded-proto: https"
    );
    assert_eq!(answer.body, expected);
}
