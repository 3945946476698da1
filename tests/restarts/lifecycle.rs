use std::os::unix::fs::PermissionsExt;

use http::Version;
use http_body_util::BodyExt;
use nix::sys::signal::Signal;

use harness::{
    Stack, binary,
    https::get,
    process::{self, Process},
    upstream::{self, HoldingUpstream},
    users::Users,
};

#[tokio::test]
async fn sigterm_lets_requests_in_flight_finish() {
    let stack = Stack::new().await;
    let slow = HoldingUpstream::new(&stack).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let mut proxy = stack.proxy(slow.port, &[]).await;
        let https = stack.https(proxy.listening().await);
        let request = tokio::spawn(async move { https.send_over(version, get(&[])).await });
        slow.arrived(1).await;

        proxy.signal(Signal::SIGTERM);
        proxy.logged("stopping: finishing what is in flight").await;
        slow.release(1);

        assert_eq!(request.await.unwrap().body, "finished");
        assert_eq!(proxy.ended().await.code(), Some(0), "{version:?}");
    }
}

#[tokio::test]
async fn drain_timeout_and_a_second_signal_end_requests_that_hang() {
    let stack = Stack::new().await;
    let hung = upstream::answering(&stack, &["h2"], async |_| std::future::pending().await).await;
    for (drain, signals, status, log) in [
        ("100ms", 1, 0, "drain timeout passed"),
        ("30s", 2, 1, "stopping at once"),
    ] {
        let mut proxy = stack.proxy(hung, &["--drain-timeout", drain]).await;
        let https = stack.https(proxy.listening().await);
        tokio::spawn(async move { https.send(get(&[])).await });
        proxy.logged("GET /").await;
        for _ in 0..signals {
            proxy.signal(Signal::SIGTERM);
            proxy.logged("stopping: finishing").await;
        }
        proxy.logged(log).await;
        assert_eq!(proxy.ended().await.code(), Some(status));
    }
}

#[tokio::test]
async fn idle_connections_do_not_delay_the_end() {
    let stack = Stack::new().await;
    let long = [
        "--header-timeout",
        "10m",
        "--idle-timeout",
        "10m",
        "--drain-timeout",
        "10m",
    ];
    let mut server = stack.server(&long).await;
    let https = stack.https(server.listening().await);
    let _idle = (https.connect(b"h2").await, https.connect(b"http/1.1").await);
    server.signal(Signal::SIGINT);
    server.logged("stopped").await;
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test]
async fn silent_caller_does_not_delay_the_end() {
    let stack = Stack::new().await;
    let long = ["--handshake-timeout", "10m", "--drain-timeout", "10m"];
    let mut server = stack.server(&long).await;
    let port = server.listening().await;
    let _silent = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .unwrap();
    // The silent caller has been accepted, because the next one on its core was.
    assert_eq!(stack.https(port).send(get(&[])).await.status, 401);
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_port_in_use_is_refused_at_once() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let address = format!("127.0.0.1:{}", server.listening().await);
    for name in ["server", "proxy"] {
        let mut second = stack.spawn(name, &["--listen", &address]);
        second
            .logged(&format!("cannot listen on {address}: the port is in use"))
            .await;
        assert_eq!(second.ended().await.code(), Some(1));
    }
}

#[tokio::test]
async fn start_up_reports_what_is_wrong_with_the_workload_api() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    drop(std::os::unix::net::UnixListener::bind(path("stale")).unwrap());
    std::fs::write(path("file"), "").unwrap();
    let _mute = std::os::unix::net::UnixListener::bind(path("mute")).unwrap();
    let stack = Stack::with("spiffe://example.org/other", |config| {
        config.entries.retain(|entry| entry.id().path() == "/other");
    })
    .await;
    let cases = [
        (
            path("nowhere"),
            "no such socket; start the agent; --workload-api or SPIFFE_ENDPOINT_SOCKET gives the agent's socket",
        ),
        (
            path("stale"),
            "nobody listens on the socket; start the agent",
        ),
        (
            path("file"),
            "that is not a socket; --workload-api or SPIFFE_ENDPOINT_SOCKET gives the agent's socket",
        ),
        (path("mute"), "connected, but it did not answer in time"),
        (
            stack.agent.socket().display().to_string(),
            "no registration entry matches this process (uid ",
        ),
    ];
    for (socket, reason) in cases {
        let endpoint = format!("unix://{socket}");
        let serving = async |name| {
            let args = ["--listen", "127.0.0.1:0", "--startup-timeout", "3s"];
            let mut process = process::spawn(name, &endpoint, &args);
            let line = process
                .logged(&format!("no identity from the Workload API at {endpoint}"))
                .await;
            assert!(line.contains(reason), "{line}");
            assert_eq!(process.ended().await.code(), Some(1));
        };
        let args = ["-m", "3s"];
        let client = process::output("client", &endpoint, &args);
        let ((), (), output) = tokio::join!(serving("server"), serving("proxy"), client);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(reason) && text.lines().count() == 1, "{text}");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[tokio::test]
async fn a_socket_without_permission_is_named_with_the_user() {
    let Some(users) = Users::new(&[("server", "daemon")]).await else {
        return;
    };
    let directory = users.stack.agent.socket().parent().unwrap();
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700)).unwrap();
    let args = ["--listen", "127.0.0.1:0", "--startup-timeout", "3s"];
    let mut process = Process::spawn(users.command("server", "daemon", &args));
    let line = process
        .logged("permission denied on the socket for uid 1, user daemon")
        .await;
    assert!(line.contains(&users.stack.agent.endpoint()), "{line}");
    assert_eq!(process.ended().await.code(), Some(1));
}

#[tokio::test]
async fn an_agent_that_starts_later_is_found() {
    let stack = Stack::new().await;
    stack.agent.stop().await;
    let server = stack.spawn("server", &["--listen", "127.0.0.1:0"]);
    server
        .logged("waiting for an identity from the Workload API")
        .await;

    stack.agent.restart().await.unwrap();

    server.listening().await;
}

#[tokio::test]
async fn bad_flags_are_refused_with_status_2_before_anything_else() {
    for (name, args, text) in [
        (
            "server",
            &["--workload-api", "agent.sock"] as &[&str],
            "'agent.sock' for '--workload-api <ADDRESS>'",
        ),
        (
            "server",
            &["--workload-api", "http://localhost"],
            "expected for example unix:///tmp/agent.sock",
        ),
        (
            "server",
            &["--audience", ""],
            "an audience must not be empty",
        ),
        (
            "server",
            &["--allow", "*"],
            "expected a SPIFFE ID such as spiffe://example.org/client",
        ),
        (
            "server",
            &["--listen", "8080"],
            "expected an IP address and a port, for example [::]:8080",
        ),
        (
            "server",
            &["--startup-timeout", "5"],
            "expected a number and a unit, for example 500ms",
        ),
        (
            "server",
            &["--max-connections", "0"],
            "expected a whole number of at least 1",
        ),
        (
            "server",
            &["--token-cache", "1k"],
            "expected a whole number, for example 10000",
        ),
        (
            "proxy",
            &["--upstream", "http://localhost:8080"],
            "http would send the token in clear",
        ),
        (
            "proxy",
            &["--upstream-id", "example.org/server"],
            "expected for example spiffe://example.org/server",
        ),
        ("proxy", &["--path", "status"], "expected a path from / on"),
        ("proxy", &["--path", "/a/*"], "only in a final /**"),
        ("proxy", &["--nope"], "unexpected argument '--nope'"),
        (
            "client",
            &["--url", "http://localhost:8443/"],
            "http would send the token in clear",
        ),
        (
            "client",
            &["--server-id", "spiffe://example.org"],
            "names a trust domain, not a workload",
        ),
    ] {
        let output = process::output(name, "unix:///nowhere", args).await;
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr.contains(text), "{args:?}: {stderr}");
    }
}

#[tokio::test]
async fn the_environment_is_read_like_the_flags() {
    let mut command = process::command(&binary("server"), "unix:///nowhere", &[] as &[&str]);
    let output = command
        .env("SERVER_LISTEN", "nonsense")
        .output()
        .await
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr.contains("'nonsense' for '--listen <ADDRESS>'"),
        "{stderr}"
    );
    assert!(
        stderr.contains("the environment variable SERVER_LISTEN is set"),
        "{stderr}"
    );
}

#[tokio::test]
async fn a_header_that_never_ends_and_a_handshake_that_never_comes_are_cut_off() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let stack = Stack::new().await;
    let server = stack
        .server(&["--header-timeout", "2s", "--handshake-timeout", "2s"])
        .await;
    let port = server.listening().await;

    let mut silent = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .unwrap();
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);

    let mut slow = stack.https(port).connect(b"http/1.1").await;
    slow.write_all(b"GET / HTTP/1.1\r\nHost: a").await.unwrap();
    let cut_off = slow.read(&mut [0]).await;
    assert!(matches!(cut_off, Ok(0) | Err(_)), "{cut_off:?}");

    let mut response = stack.https(port).start(Version::HTTP_11, get(&[])).await;
    assert!(
        response.body_mut().frame().await.is_some(),
        "others are served meanwhile"
    );
}
