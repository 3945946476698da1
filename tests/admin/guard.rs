use std::{
    io::ErrorKind,
    net::{IpAddr, UdpSocket},
};

use harness::{PATIENCE, Stack, admin::Admin, skip};
use http::Method;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

#[tokio::test]
async fn page_of_another_origin_is_refused_although_its_name_resolves_here() {
    let stack = Stack::new().await;
    let (_server, admin) = stack
        .server_with_admin(&["--admin-host", "admin.internal"])
        .await;
    let asked = async |method: Method, path, fields: &[(&'static str, &str)]| {
        let mut request = admin.request(method, path, "debug");
        for (name, value) in fields {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        admin.ask(request).await
    };
    for (host, status) in [
        ("evil.example", 421),
        ("evil.example:80", 421),
        ("localhost", 200),
        ("admin.internal:1", 200),
    ] {
        let answer = asked(Method::GET, "/ready", &[("host", host)]).await;
        assert_eq!(answer.status, status, "{host}: {}", answer.body);
        if status == 421 {
            assert!(
                answer.body.contains("is not a name of this listener"),
                "{}",
                answer.body
            );
        }
    }
    let answer = asked(Method::PUT, "/log", &[("origin", "http://evil.example")]).await;
    assert_eq!(answer.status, 403);
    assert!(
        answer.body.contains("pages of other origins"),
        "{}",
        answer.body
    );
    assert_eq!(admin.get("/log").await.body, "h2=error,info\n");
}

#[tokio::test]
async fn other_methods_are_405_with_those_that_are_allowed_and_other_paths_404() {
    let stack = Stack::new().await;
    let (_server, admin) = stack.server_with_admin(&[]).await;
    for (method, path, allow) in [
        (Method::POST, "/log", "GET, HEAD, PUT"),
        (Method::DELETE, "/log", "GET, HEAD, PUT"),
        (Method::PUT, "/ready", "GET, HEAD"),
        (Method::OPTIONS, "/live", "GET, HEAD"),
        (Method::POST, "/", "GET, HEAD"),
    ] {
        let answer = admin
            .ask(admin.request(method.clone(), path, "debug"))
            .await;
        assert_eq!(answer.status, 405, "{method} {path}");
        assert_eq!(answer.headers["allow"], allow, "{method} {path}");
    }
    let answer = admin.get("/metrics/../ready").await;
    assert_eq!(answer.status, 404);
    assert!(answer.body.contains("/ready"), "{}", answer.body);
}

/// Returns an address of this machine that is not a loopback address.
fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // UDP sends nothing to connect.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[tokio::test]
async fn other_machine_reads_with_admin_remote_and_does_not_change_the_log() {
    let Some(outer) = outer_address() else {
        skip("this machine has no address but loopback");
        return;
    };
    let stack = Stack::new().await;
    let server = stack
        .server(&["--admin", "0.0.0.0:0", "--admin-remote"])
        .await;
    let Admin::Ip(address) = Admin::of(&server).await else {
        panic!("not an IP address");
    };
    let port = address.rsplit_once(':').unwrap().1;
    let remote = Admin::Ip(format!("{outer}:{port}"));
    assert_eq!(remote.get("/ready").await.status, 200);
    assert_eq!(remote.get("/log").await.status, 200);
    let answer = remote
        .ask(remote.request(Method::PUT, "/log", "debug"))
        .await;
    assert_eq!(answer.status, 403);
    assert!(answer.body.contains("on this machine"), "{}", answer.body);

    let local = Admin::Ip(format!("127.0.0.1:{port}"));
    let answer = local.ask(local.request(Method::PUT, "/log", "debug")).await;
    assert_eq!(answer.status, 200);
}

/// Waits for the end of a connection, and returns what came before it.
async fn rest(connection: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, connection.read_to_end(&mut rest));
    if let Err(error) = read.await.expect("ends in time") {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    rest
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_keep_others_out() {
    let stack = Stack::new().await;
    let (_server, admin) = stack.server_with_admin(&[]).await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(admin.address()).await.unwrap());
        assert_eq!(admin.get("/live").await.status, 200);
    }
    assert!(
        rest(&mut silent[0]).await.is_empty(),
        "the oldest is closed"
    );
    silent[39]
        .write_all(b"GET /live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let answer = rest(&mut silent[39]).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "the newest is served");
}

#[tokio::test]
async fn head_that_is_long_is_answered_431_and_one_that_does_not_end_is_closed() {
    let stack = Stack::new().await;
    let (_server, admin) = stack.server_with_admin(&[]).await;
    let mut long = TcpStream::connect(admin.address()).await.unwrap();
    let head = format!(
        "GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
        "x".repeat(20_000)
    );
    long.write_all(head.as_bytes()).await.unwrap();
    assert!(rest(&mut long).await.starts_with(b"HTTP/1.1 431"));
    let mut slow = TcpStream::connect(admin.address()).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nhost: ").await.unwrap();
    let answer = rest(&mut slow).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"));
}
