use harness::{
    CLIENT_ID, Stack,
    app::App,
    http::send,
    https::get,
    process::{Process, free_ports},
};
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use tokio::net::TcpStream;

use crate::collector::{Collector, Seen};

pub(crate) const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
pub(crate) const SPAN: &str = "00f067aa0ba902b7";

/// A client that listens, a proxy, a server and an application, whose spans go to one collector.
struct Path {
    stack: Stack,
    app: App,
    collector: Collector,
    processes: Vec<Process>,
    /// The address of the client.
    client: String,
}

impl Path {
    async fn start(args: &[&str]) -> Self {
        let (stack, app, collector) = (
            Stack::new().await,
            App::start("h2c").await,
            Collector::start().await,
        );
        let flags = collector.flags();
        let common = [&flags[..], &["--log-requests", "all"], args].concat();
        let server = [&common[..], &["--upstream", &app.url]].concat();
        let server = stack.server(&server).await;
        let proxy = [&common[..], &["--path", "/**"]].concat();
        let proxy = stack.proxy(server.listening().await, &proxy).await;
        let url = format!("https://localhost:{}", proxy.listening().await);
        let client = [&common[..], &["--listen", "127.0.0.1:0", "--url", &url]].concat();
        let client = stack.spawn("client", &client);
        let address = format!("127.0.0.1:{}", client.listening().await);
        Self {
            stack,
            app,
            collector,
            processes: vec![client, proxy, server],
            client: address,
        }
    }

    async fn call(&self, version: Version, request: Request<Full<Bytes>>) {
        let client = TcpStream::connect(&self.client).await.unwrap();
        let answer = send(client, version, request).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap();
    }

    /// Sends a request of the application on the client's side, and returns the fields that the other application
    /// sees.
    async fn send(&self, fields: &[(&str, &str)]) -> http::HeaderMap {
        self.call(Version::HTTP_11, request(fields)).await;
        self.app.take_one().0.headers
    }

    /// Waits for the spans of one request, and returns that of the client, of the proxy and of the server.
    async fn wait_for_spans(&self) -> [Seen; 3] {
        let spans = self.collector.wait_for(3).await;
        ["client", "proxy", "server"].map(|role| {
            let mut of_role = spans.iter().filter(|one| one.service == role);
            of_role.next().unwrap().clone()
        })
    }
}

fn request(fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = get(&[&[("host", "app")], fields].concat()).map(|_| Full::from("a body"));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = "/orders?secret=7".parse().unwrap();
    request
}

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{SPAN}-{flags}")
}

#[tokio::test]
#[ignore = "scripts/otlp.sh builds its binaries"]
async fn sampled_request_has_one_trace_with_a_span_of_each_role_u034() {
    let path = Path::start(&[]).await;
    let state = "rojo=00f067aa0ba902b7";
    let fields = [("traceparent", &*parent("01")), ("tracestate", state)];
    let seen = path.send(&fields).await;
    let spans = path.wait_for_spans().await;
    let mut above = SPAN.to_owned();
    let mut time = 0..u64::MAX;
    for (Seen { service, span }, process) in spans.iter().zip(&path.processes) {
        let [trace, id, parent] = span.ids();
        assert_eq!((&*trace, &parent), (TRACE, &above), "{service}");
        assert_eq!((&*span.name, span.kind, span.flags), ("POST", 2, 0x301));
        assert!(
            time.start < span.begun && span.ended <= time.end,
            "{service}"
        );
        time = span.begun..span.ended;
        process
            .logged(&format!("trace_id={TRACE} span_id={id}"))
            .await;
        above = id;
    }
    assert_eq!(seen["traceparent"], format!("00-{TRACE}-{above}-01"));
    assert_eq!(seen["tracestate"], state);
}

#[tokio::test]
#[ignore = "scripts/otlp.sh builds its binaries"]
async fn attributes_are_those_of_the_conventions_without_secrets() {
    let path = Path::start(&["--otlp-resource", "service.namespace=a%2Cshop"]).await;
    path.send(&[("traceparent", &parent("01")), ("cookie", "secret")])
        .await;
    for Seen { service, span } in path.wait_for_spans().await {
        let version = match &*service {
            "client" => "1.1",
            _ => "2",
        };
        let scheme = match &*service {
            "client" => "http",
            _ => "https",
        };
        for (name, value) in [
            ("http.request.method", "POST"),
            ("http.response.status_code", "200"),
            ("http.request.body.size", "6"),
            ("http.response.body.size", "6"),
            ("network.protocol.version", version),
            ("network.peer.address", "127.0.0.1"),
            ("client.address", "127.0.0.1"),
            ("url.path", "/orders"),
            ("url.scheme", scheme),
        ] {
            assert_eq!(span.text(name).as_deref(), Some(value), "{service}: {name}");
        }
        let caller = (service == "server").then(|| CLIENT_ID.to_owned());
        assert_eq!(span.text("spiffe.caller.id"), caller);
        assert!(span.text("spiffe.upstream.duration").is_some());
        let is_verified = span.text("spiffe.verification.duration").is_some();
        assert_eq!(is_verified, service == "server");
        assert_eq!((&span.status, span.text("error.type")), (&None, None));
    }
    for body in path.collector.bodies() {
        let text = String::from_utf8_lossy(&body);
        for secret in ["secret", "eyJ", "Bearer"] {
            assert!(!text.contains(secret), "{secret}");
        }
        assert!(text.contains("service.namespace") && text.contains("a,shop"));
    }
}

#[tokio::test]
#[ignore = "scripts/otlp.sh builds its binaries"]
async fn failed_upstream_is_an_error_in_the_span_whose_id_is_in_the_log() {
    let (stack, collector) = (Stack::new().await, Collector::start().await);
    let [nowhere] = free_ports();
    let url = format!("https://localhost:{nowhere}");
    let args = ["--listen", "127.0.0.1:0", "--url", &url];
    let client = stack.spawn("client", &[&args[..], &collector.flags()].concat());
    let address = ("127.0.0.1", client.listening().await);
    let connection = TcpStream::connect(address).await.unwrap();
    let request = request(&[("traceparent", &parent("01"))]);
    let answer = send(connection, Version::HTTP_11, request).await.unwrap();
    assert_eq!(answer.status(), 502);
    let Seen { span, .. } = &collector.wait_for(1).await[0];
    assert_eq!(span.text("error.type").unwrap(), "upstream_connect");
    assert_eq!(
        span.text("spiffe.refusal.reason").unwrap(),
        "upstream_connect"
    );
    assert_eq!(span.status.as_ref().unwrap().code, 2);
    let [_, id, _] = span.ids();
    let line = client.logged("status=502").await;
    let ids = format!("trace_id={TRACE} span_id={id}");
    assert!(line.contains(&ids), "{line}");
}

#[tokio::test]
#[ignore = "scripts/otlp.sh builds its binaries"]
async fn service_and_attributes_come_from_the_variables_of_opentelemetry() {
    let (stack, collector) = (Stack::new().await, Collector::start().await);
    for (name, attributes, expected) in [
        (
            "shop",
            "service.name=x, deployment.environment.name=test",
            "shop",
        ),
        ("", "service.name=x", "x"),
        ("", "", "server"),
    ] {
        let args = [&["--listen", "127.0.0.1:0"], &collector.flags()[..]].concat();
        let environment = [
            ("OTEL_SERVICE_NAME", name),
            ("OTEL_RESOURCE_ATTRIBUTES", attributes),
        ];
        let server = stack.spawn_with("server", &args, &environment);
        let https = stack.https(server.listening().await);
        let bearer = stack.bearer();
        let fields = [("authorization", &*bearer), ("traceparent", &*parent("01"))];
        assert_eq!(https.send(get(&fields)).await.status, 200);
        server.stop().await;
        assert_eq!(collector.spans().pop().unwrap().service, expected);
    }
    let first = &collector.bodies()[0];
    assert!(String::from_utf8_lossy(first).contains("deployment.environment.name"));
}

#[tokio::test]
#[ignore = "scripts/otlp.sh builds its binaries"]
async fn request_that_is_not_sampled_passes_unchanged_and_has_no_span_u034() {
    let path = Path::start(&[]).await;
    for fields in [
        &[] as &[(&str, &str)],
        &[("tracestate", "a=1")],
        &[("traceparent", &parent("00")), ("tracestate", "a=1")],
        &[("traceparent", &parent("02"))],
        &[("traceparent", "not valid"), ("tracestate", "a=1")],
        &[
            ("traceparent", &parent("01")),
            ("traceparent", &parent("01")),
        ],
    ] {
        let seen = path.send(fields).await;
        for name in ["traceparent", "tracestate"] {
            let sent = fields.iter().filter(|(one, _)| *one == name);
            let sent: Vec<_> = sent.map(|(_, value)| *value).collect();
            let seen: Vec<_> = seen.get_all(name).iter().collect();
            assert_eq!(seen, sent);
        }
    }
    path.send(&[("traceparent", &parent("01"))]).await;
    path.wait_for_spans().await;
}

#[tokio::test]
#[ignore = "scripts/otlp.sh builds its binaries"]
async fn trace_begins_for_a_request_without_a_valid_one_if_it_is_sampled_here_u034() {
    for fields in [
        &[] as &[(&str, &str)],
        &[("traceparent", "not valid"), ("tracestate", "a=1")],
        &[
            ("traceparent", &parent("01")),
            ("traceparent", &parent("01")),
        ],
    ] {
        let path = Path::start(&["--otlp-sample", "1"]).await;
        let seen = path.send(fields).await;
        let [client, proxy, server] = path.wait_for_spans().await;
        let [trace, id, parent] = client.span.ids();
        assert_ne!(trace, TRACE);
        assert_eq!(parent, "");
        assert_eq!(client.span.flags, 3);
        let [_, last, _] = server.span.ids();
        assert_eq!(proxy.span.ids()[2], id);
        assert_eq!(seen["traceparent"], format!("00-{trace}-{last}-03"));
        assert_eq!(seen.get_all("traceparent").iter().count(), 1);
        assert!(!seen.contains_key("tracestate"));
        drop(path);
    }
}

#[tokio::test]
#[ignore = "scripts/otlp.sh builds its binaries"]
async fn sampled_grpc_call_and_later_version_are_recorded_u034() {
    let path = Path::start(&[]).await;
    let later = format!("cc-{TRACE}-{SPAN}-ff-more");
    let mut request = request(&[("traceparent", &later), ("te", "trailers")]);
    let grpc = "application/grpc".parse().unwrap();
    request.headers_mut().insert("content-type", grpc);
    *request.uri_mut() = "http://app/orders".parse().unwrap();
    request.headers_mut().remove("host");
    path.call(Version::HTTP_2, request).await;
    let [client, _, server] = path.wait_for_spans().await;
    assert_eq!(client.span.text("network.protocol.version").unwrap(), "2");
    let [_, last, _] = server.span.ids();
    let seen = path.app.take_one().0.headers;
    assert_eq!(seen["traceparent"], format!("00-{TRACE}-{last}-03"));
    drop(path.stack);
}
