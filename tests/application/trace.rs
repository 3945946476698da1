//! Sends trace context (W3C) through all roles, which pass it on unchanged.

use http::{Request, Version};
use http_body_util::Full;

use harness::{Stack, app::App};

use crate::caller::{call, client};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn trace_context_passes_each_role_unchanged_u033() {
    let (stack, app) = (Stack::new().await, App::start("http").await);
    let server = stack.server(&["--upstream", &app.url]).await;
    let proxy = stack.proxy(server.listening().await, &[]).await;
    let url = format!("https://localhost:{}", proxy.listening().await);
    let (_client, address) = client(&stack, &["--url", &url]).await;
    let long = format!("a@b={}", "x".repeat(500));
    for (parents, states) in [
        (&[PARENT] as &[&str], &[] as &[&str]),
        (&[PARENT], &["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"]),
        (&[PARENT], &["a=1", "b=2 ; x , c=\"~!\"", &long]),
        // A later version, and fields that are not valid, cross as any other field does.
        (
            &["cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more"],
            &["a=1"],
        ),
        (
            &["00-00000000000000000000000000000000-0000000000000000-00"],
            &["=,="],
        ),
        (&["not a traceparent"], &["", "a"]),
        (&[PARENT, PARENT], &["a=1", "a=1"]),
        (&[], &["a=1"]),
    ] {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let mut request = Request::builder().version(version);
            request = match version {
                Version::HTTP_2 => request.uri("http://app/"),
                _ => request.uri("/").header("host", "app"),
            };
            for parent in parents {
                request = request.header("traceparent", *parent);
            }
            for state in states {
                request = request.header("tracestate", *state);
            }
            let request = request.body(Full::default()).unwrap();
            assert_eq!(call(&address, version, request).await.status, 200);
            let (head, _) = app.take_one();
            let seen = |name| -> Vec<_> {
                let fields = head.headers.get_all(name).iter();
                fields.map(|field| field.to_str().unwrap()).collect()
            };
            assert_eq!(seen("traceparent"), parents, "{version:?}");
            assert_eq!(seen("tracestate"), states, "{version:?}");
        }
    }
}
