use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use rcgen::SanType;
use serve::body;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};

use harness::{
    CLIENT_ID, PATIENCE, SERVER_ID, Stack,
    app::App,
    process,
    upstream::answering,
    x509::{Authority, Presenting},
};

use crate::caller::{call, client};

/// Returns a request of an application to `host`.
fn request(version: Version, host: &str, fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method("POST").version(version);
    request = match version {
        Version::HTTP_2 => request.uri(format!("http://{host}/orders?id=7")),
        _ => request.uri("/orders?id=7").header("host", host),
    };
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(Full::new("a body".into())).unwrap()
}

#[tokio::test]
async fn an_application_calls_another_through_client_proxy_and_server_u008() {
    for scheme in ["http", "unix+h2c"] {
        let (stack, app) = (Stack::new().await, App::start(scheme).await);
        let server = stack.server(&["--upstream", &app.url]).await;
        let proxy = stack
            .proxy(server.listening().await, &["--path", "/**"])
            .await;
        let url = format!("https://localhost:{}", proxy.listening().await);
        let (client, address) = client(&stack, &["--url", &url]).await;
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let fields = [
                ("x-spiffe-id", "spiffe://example.org/admin"),
                ("x-mine", "kept"),
            ];
            let answer = call(&address, version, request(version, "orders", &fields)).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "a body"));
            let (head, body) = app.take_one();
            assert_eq!(&body[..], b"a body");
            assert_eq!(head.uri.path_and_query().unwrap(), "/orders?id=7");
            assert_eq!(head.headers["x-spiffe-id"], CLIENT_ID);
            assert_eq!(head.headers["x-mine"], "kept");
            assert!(!head.headers.contains_key("authorization"));
        }
        let line = client.logged("POST /orders").await;
        assert!(!line.contains("id=7"), "{line}");
    }
}

#[tokio::test]
async fn a_client_listens_on_a_unix_socket_for_its_own_user_u009() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let url = format!("https://localhost:{}", server.listening().await);
    let directory = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", directory.path().join("client.sock").display());
    let client = stack.spawn("client", &["--listen", &socket, "--url", &url]);
    client.logged(&format!("listening on {socket}")).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let request = Request::builder()
            .uri("http://server/")
            .header("host", "server");
        let request = request.body(Full::default()).unwrap();
        let answer = call(&socket, version, request).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "Success!!!"));
    }
    client.logged("peer=unix:uid:").await;
}

#[tokio::test]
async fn requests_are_routed_by_their_host_and_others_are_refused_u010() {
    let stack = Stack::new().await;
    let mut ports = Vec::new();
    for name in ["one", "two"] {
        let port = answering(&stack, &["h2"], move |request| async move {
            let token = request.headers()["authorization"].to_str().unwrap();
            body::text(StatusCode::OK, format!("{name} {}", token.len() > 100))
        });
        ports.push(port.await);
    }
    let route = |host: &str, port: u16| {
        format!("{host}=https://localhost:{port};audience={SERVER_ID};server-id={SERVER_ID}")
    };
    let (one, two) = (
        route("one.internal", ports[0]),
        route("two.internal:81", ports[1]),
    );
    let (client, address) = client(&stack, &["--route", &one, "--route", &two]).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for (host, expected) in [
            ("one.internal", (200, "one true")),
            ("ONE.internal:8080", (200, "one true")),
            ("two.internal:81", (200, "two true")),
            ("two.internal", (403, "--route 'two.internal=https://…'")),
            (
                "three.internal",
                (403, "--route 'three.internal=https://…'"),
            ),
        ] {
            let answer = call(&address, version, request(version, host, &[])).await;
            assert_eq!(answer.status, expected.0, "{host}");
            assert!(answer.body.contains(expected.1), "{host}: {}", answer.body);
        }
    }
    // A forward proxy gets the whole URL, as curl sends it with http_proxy.
    let request = Request::builder()
        .uri("http://one.internal/")
        .header("host", "one.internal");
    let request = request.body(Full::default()).unwrap();
    assert_eq!(
        call(&address, Version::HTTP_11, request).await.body,
        "one true"
    );
    client.logged("no route for the host three.internal").await;
}

/// Begins an upload that needs an upstream connection of its own, and does not end it.
async fn begin_upload(address: &str, host: &str) -> TcpStream {
    let head = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 60000\r\n\r\n");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let begun = [head.as_bytes(), &[b'a'; 30_000]].concat();
    stream.write_all(&begun).await.unwrap();
    stream
}

#[tokio::test]
async fn all_routes_together_have_the_bound_of_upstream_connections_u010() {
    let stack = Stack::new().await;
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let mut args = Vec::new();
    for name in ["one", "two"] {
        let arrived = arrived.clone();
        let port = answering(&stack, &["http/1.1"], move |request| {
            arrived.send(name).unwrap();
            async move {
                let _ = request.into_body().collect().await;
                body::status(StatusCode::OK)
            }
        });
        let port = port.await;
        args.push("--route".to_owned());
        args.push(format!(
            "{name}=https://localhost:{port};server-id={SERVER_ID}"
        ));
    }
    let mut args: Vec<_> = args.iter().map(String::as_str).collect();
    args.extend([
        "--max-upstream-connections",
        "1",
        "--queue-timeout",
        "100ms",
    ]);
    let (_client, address) = client(&stack, &args).await;
    let held = begin_upload(&address, "one").await;
    assert_eq!(arrivals.recv().await, Some("one"));
    let mut refused = begin_upload(&address, "two").await;
    let mut status = [0; 12];
    let read = timeout(PATIENCE, refused.read_exact(&mut status)).await;
    read.expect("is refused in time").unwrap();
    assert_eq!(&status, b"HTTP/1.1 503");
    assert!(arrivals.try_recv().is_err());
    drop(held);
}

#[tokio::test]
async fn a_value_of_the_environment_that_a_flag_excludes_is_named_u014() {
    let stack = Stack::new().await;
    let route = format!("a=https://b;server-id={SERVER_ID}");
    let args = ["--listen", "127.0.0.1:0", "--route", &route];
    let mut command = stack.command("client", &args);
    let output = command.env("CLIENT_URL", "https://b").output().await;
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    for text in [
        "'--route <ROUTE>' cannot be used with",
        "--url <URL>",
        "the environment variable CLIENT_URL is set",
    ] {
        assert!(said.contains(text), "{said}");
    }
}

#[tokio::test]
async fn a_token_for_several_audiences_is_warned_of_u014() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let url = format!("https://localhost:{}", server.listening().await);
    let args = ["--url", &url, SERVER_ID, "spiffe://example.org/other"];
    let (client, _) = client(&stack, &args).await;
    client.logged("the token is for 2 audiences").await;
}

#[tokio::test]
async fn a_load_balancer_with_a_certificate_of_another_ca_is_verified_by_name_u011() {
    let stack = Stack::new().await;
    let directory = tempfile::tempdir().unwrap();
    let ca = Authority::root();
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, ca.pem()).unwrap();
    let balancer = Presenting::new("h2").await;
    balancer.present(&ca.issue(SERVER_ID, |certificate| {
        let name = "lb.example.org".try_into().unwrap();
        certificate.subject_alt_names = vec![SanType::DnsName(name)];
    }));
    let url = format!("https://127.0.0.1:{}", balancer.port);
    let file = file.to_str().unwrap();
    for (name, ca_file, status) in [
        ("lb.example.org", Some(file), 200),
        ("other.example.org", Some(file), 502),
        // The system's roots do not have the test's CA.
        ("lb.example.org", None, 502),
    ] {
        let mut route = format!("lb={url};audience={SERVER_ID};server-name={name}");
        if let Some(file) = ca_file {
            route.push_str(&format!(";ca={file}"));
        }
        let (client, address) = client(&stack, &["--route", &route]).await;
        let version = Version::HTTP_11;
        let answer = call(&address, version, request(version, "lb", &[])).await;
        assert_eq!(answer.status, status, "{name} {ca_file:?}");
        if status == 502 {
            client.logged("invalid peer certificate").await;
        }
    }
    let args = [
        SERVER_ID,
        "--url",
        &url,
        "--server-name",
        "lb.example.org",
        "--ca",
        file,
    ];
    let once = process::output("client", &stack.agent.endpoint(), &args).await;
    assert!(once.status.success(), "{once:?}");
    assert_eq!(balancer.seen().requests(), 2);
}

#[tokio::test]
async fn an_application_s_own_authorization_is_refused_or_replaced_u012() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let url = format!("https://localhost:{}/", server.listening().await);
    let own = [("authorization", "Basic dTpw")];
    for (args, status) in [(&[] as &[&str], 400), (&["--replace-authorization"], 200)] {
        let (_client, address) = client(&stack, &[&["--url", &url], args].concat()).await;
        let request = Request::builder()
            .uri("/")
            .header("host", "a")
            .header(own[0].0, own[0].1);
        let request = request.body(Full::default()).unwrap();
        let answer = call(&address, Version::HTTP_11, request).await;
        assert_eq!(answer.status, status);
        if status == 400 {
            assert!(
                answer.body.contains("--replace-authorization"),
                "{}",
                answer.body
            );
        }
    }
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once_u013() {
    for is_always in [false, true] {
        let stack = Stack::new().await;
        let asked = std::sync::Arc::new(AtomicUsize::new(0));
        let count = std::sync::Arc::clone(&asked);
        let port = answering(&stack, &["h2"], move |request| {
            let number = count.fetch_add(1, SeqCst);
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(&body[..], b"a body");
                let mut answer = body::text(StatusCode::OK, "fine");
                if is_always || number == 0 {
                    *answer.status_mut() = StatusCode::UNAUTHORIZED;
                    let challenge = r#"Bearer error="invalid_token""#.parse().unwrap();
                    answer.headers_mut().insert("www-authenticate", challenge);
                }
                answer
            }
        })
        .await;
        let url = format!("https://localhost:{port}");
        let (_client, address) = client(&stack, &["--url", &url]).await;
        let version = Version::HTTP_11;
        let answer = call(&address, version, request(version, "a", &[])).await;
        assert_eq!(answer.status, if is_always { 401 } else { 200 });
        assert_eq!(asked.load(SeqCst), 2, "one more time, and no more");
    }
}

#[tokio::test]
async fn an_address_that_others_reach_or_an_incomplete_route_is_refused_u014() {
    let stack = Stack::new().await;
    let route = format!("a=https://b;server-id={SERVER_ID}");
    for (args, text) in [
        (
            &["--listen", "0.0.0.0:0"] as &[&str],
            "expected a loopback address",
        ),
        (&["--listen", "[::]:0"], "expected a loopback address"),
        (
            &["--listen", "localhost:1"],
            "expected an IP address and a port",
        ),
        (
            &["--listen", "127.0.0.1:0", "-d", "x"],
            "cannot be used with",
        ),
        (
            &["--listen", "127.0.0.1:0", "--url", "https://a/b"],
            "applications give the path",
        ),
        (
            &["--listen", "127.0.0.1:0", "--route", "a=b"],
            "expected for example",
        ),
        (
            &[
                "--listen",
                "127.0.0.1:0",
                "--route",
                &route,
                "--route",
                &route,
            ],
            "is given twice",
        ),
        (&["--route", &route], "--listen <ADDRESS>"),
        (&["--server-name", "lb"], "--server-name needs AUDIENCE"),
        (&["a", "--ca", "x"], "--server-name <NAME>"),
        (
            &["a", "--server-name", "lb", "--server-id", SERVER_ID],
            "cannot be used with",
        ),
    ] {
        let output = process::output("client", &stack.agent.endpoint(), args).await;
        assert_eq!(output.status.code(), Some(2), "{args:?} {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(text), "{args:?}: {said}");
        assert!(!said.contains("listening on"), "{said}");
    }
    let missing = format!("a=https://b;audience={SERVER_ID};server-name=b;ca=/no/such/file");
    let args = ["--listen", "127.0.0.1:0", "--route", &missing];
    let output = process::output("client", &stack.agent.endpoint(), &args).await;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("--route ca=/no/such/file: No such file"),
        "{said}"
    );
}
