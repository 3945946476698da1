//! Runs nginx as the load balancer between `client --listen` and `server --upstream`.

use std::{fs, path::Path};

use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use tempfile::TempDir;
use tokio::net::TcpStream;

use harness::{
    CLIENT_ID, SERVER_ID, Stack,
    app::App,
    http::send,
    installed::is_installed,
    process::{self, Process},
    wait,
    x509::Authority,
};

/// The name in nginx's certificate, whose CA is in no trust bundle.
const NAME: &str = "lb.example.org";

/// Directories that every user may write to, in place of those of nginx's package.
const DIRECTORIES: &str = "http {
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
";

/// Holds nginx with the configuration in `deploy/nginx`.
pub(crate) struct Balancer {
    pub(crate) process: Process,
    port: u16,
    /// The files that nginx and the client read.
    pub(crate) files: TempDir,
}

impl Balancer {
    /// Starts nginx before a server of this stack. Skips the test if there is no nginx.
    pub(crate) async fn before(stack: &Stack, server: u16) -> Option<Self> {
        if !is_installed("nginx", "-v").await {
            return None;
        }
        let files = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(files.path().join(name), text).unwrap();
        let ca = Authority::root();
        let (certificate, key) = ca.issue_pem(NAME);
        write("lb.crt", &certificate);
        write("lb.key", &key);
        write("ca.pem", &ca.pem());
        write("bundle.pem", &stack.agent.x509_bundle_pem());
        let [port] = process::free_ports();
        write("nginx.conf", &configuration(files.path(), port, server));
        let here = files.path().to_str().unwrap();
        let globals = "daemon off; master_process off; pid nginx.pid; error_log stderr;";
        let args = [
            "-p",
            here,
            "-c",
            "nginx.conf",
            "-e",
            "stderr",
            "-g",
            globals,
        ];
        let mut command = process::command("nginx".as_ref(), "", &args);
        command.env("PATH", std::env::var_os("PATH").unwrap());
        let process = Process::spawn(command);
        wait::until(async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
        Some(Self {
            process,
            port,
            files,
        })
    }

    /// Starts a client that listens, and sends its requests to nginx.
    pub(crate) fn client(&self, stack: &Stack) -> Process {
        let url = format!("https://127.0.0.1:{}", self.port);
        let ca = self.files.path().join("ca.pem");
        let to = ["--listen", "127.0.0.1:0", "--url", &url];
        let verified = ["--server-name", NAME, "--ca", ca.to_str().unwrap()];
        stack.spawn("client", &[&[SERVER_ID][..], &to, &verified].concat())
    }
}

/// Returns the configuration with these ports and files in place of its own.
fn configuration(files: &Path, callers: u16, server: u16) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/nginx/nginx.conf");
    let mut text = fs::read_to_string(path).unwrap();
    let files = files.display();
    for (own, count, other) in [
        ("http {\n", 1, DIRECTORIES.to_owned()),
        (
            "listen 127.0.0.1:8443 ",
            1,
            format!("listen 127.0.0.1:{callers} "),
        ),
        (
            "server 127.0.0.1:8080;",
            1,
            format!("server 127.0.0.1:{server};"),
        ),
        (" /etc/nginx/", 5, format!(" {files}/")),
    ] {
        assert_eq!(text.matches(own).count(), count, "{own}");
        text = text.replace(own, &other);
    }
    text
}

#[tokio::test]
async fn requests_cross_nginx_with_their_bodies_and_the_verified_id_u032() {
    let (stack, app) = (Stack::new().await, App::start("http").await);
    let server = stack.server(&["--upstream", &app.url]).await;
    let Some(balancer) = Balancer::before(&stack, server.listening().await).await else {
        return;
    };
    let client = balancer.client(&stack);
    let port = client.listening().await;
    let forged = ("x-spiffe-id", "spiffe://evil.example/admin");
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for (method, length) in [("GET", 0), ("POST", 5), ("PUT", 3 << 20), ("DELETE", 0)] {
            let sent = Bytes::from(vec![b'a'; length]);
            let request = Request::builder().method(method).header(forged.0, forged.1);
            let request = match version {
                Version::HTTP_2 => request.uri("http://orders/list?id=7"),
                _ => request.uri("/list?id=7").header("host", "orders"),
            };
            let request = request.body(Full::new(sent.clone())).unwrap();
            let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let answer = send(tcp, version, request).await.unwrap();
            assert_eq!(
                answer.status(),
                200,
                "{version:?} {method}: {:?}",
                server.log()
            );
            let echoed = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(echoed, sent, "{version:?} {method}");
            let (head, body) = app.take_one();
            assert_eq!((head.method.as_str(), body), (method, sent));
            assert_eq!(head.uri, "/list?id=7");
            let ids: Vec<_> = head.headers.get_all("x-spiffe-id").iter().collect();
            assert_eq!(ids, [CLIENT_ID]);
            assert!(!head.headers.contains_key("authorization"));
        }
    }
}

/// Sends a request of an application to a client that listens. Returns the status and the challenge.
async fn get(client: &Process) -> (u16, Option<String>) {
    let port = client.listening().await;
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = Request::get("/").header("host", "orders");
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let answer = send(tcp, Version::HTTP_11, request).await.unwrap();
    let challenge = answer.headers().get("www-authenticate");
    let challenge = challenge.map(|value| value.to_str().unwrap().to_owned());
    (answer.status().as_u16(), challenge)
}

#[tokio::test]
async fn nginx_passes_refusals_of_the_server_on_u032() {
    let (stack, app) = (Stack::new().await, App::start("http").await);
    let args = [
        "--upstream",
        &app.url,
        "--allow",
        "spiffe://example.org/other",
    ];
    let server = stack.server(&args).await;
    let Some(balancer) = Balancer::before(&stack, server.listening().await).await else {
        return;
    };
    let (status, challenge) = get(&balancer.client(&stack)).await;
    assert_eq!(status, 403);
    assert!(challenge.unwrap().contains("insufficient_scope"));
    assert!(app.take().is_empty());
}

#[tokio::test]
async fn nginx_never_sends_a_request_to_a_server_that_its_bundle_does_not_verify_u032() {
    let (stack, other) = (Stack::new().await, Stack::new().await);
    let app = App::start("http").await;
    let server = other.server(&["--upstream", &app.url]).await;
    let Some(balancer) = Balancer::before(&stack, server.listening().await).await else {
        return;
    };
    assert_eq!(get(&balancer.client(&stack)).await.0, 502);
    let refused = "upstream SSL certificate verify error";
    balancer.process.logged(refused).await;
    assert!(app.take().is_empty());
}
