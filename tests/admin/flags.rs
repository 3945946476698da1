use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt};

use harness::{SERVER_ID, Stack, admin::Admin, process};

#[tokio::test]
async fn address_that_may_not_be_used_is_refused_before_anything_is_bound() {
    let stack = Stack::new().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "kept").unwrap();
    let file = format!("unix:{}", file.display());
    for (args, status, text) in [
        (
            &["--admin", "0.0.0.0:0"][..],
            2,
            "accept it with --admin-remote",
        ),
        (
            &["--admin", "localhost:1"],
            2,
            "expected an IP address and a port",
        ),
        (
            &["--admin", &taken, "--listen", &taken],
            2,
            "overlaps --listen",
        ),
        (
            &["--admin", &taken, "--ext-authz", &taken],
            2,
            &format!("overlaps --ext-authz {taken}"),
        ),
        (
            &["--admin", &taken, "--listen", "127.0.0.1:0"],
            1,
            "choose another port with --admin",
        ),
        (
            &["--admin", &file, "--listen", "127.0.0.1:0"],
            1,
            "choose another path with --admin",
        ),
    ] {
        let output = process::output("server", &stack.agent.endpoint(), args).await;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {errors}");
        assert!(errors.contains(text), "{args:?}: {errors}");
        assert!(!errors.contains("listening on"), "{args:?}: {errors}");
    }
}

#[tokio::test]
async fn unix_socket_is_for_this_user_alone_and_answers_under_any_host() {
    let stack = Stack::new().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    let address = format!("unix:{}", path.display());
    let server = stack.server(&["--admin", &address]).await;
    let admin = Admin::of(&server).await;
    assert_eq!(admin.address(), path.to_str().unwrap());
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (status, identity) = admin.becomes("ready", "identity", "met").await;
    assert_eq!(
        (status, identity["reason"].as_str()),
        (200, Some(SERVER_ID))
    );
    let put = admin.request(http::Method::PUT, "/log", "warn");
    assert_eq!(admin.ask(put).await.status, 200);
}

#[tokio::test]
async fn processes_with_reuse_port_share_the_address_and_the_one_that_stops_gives_it_up() {
    let stack = Stack::new().await;
    let [port, admin_port] = process::free_ports();
    let (listen, address) = (
        format!("127.0.0.1:{port}"),
        format!("127.0.0.1:{admin_port}"),
    );
    let args = ["--listen", &listen, "--admin", &address, "--reuse-port"];
    let old = stack.spawn("server", &args);
    let admin = Admin::of(&old).await;
    admin.becomes("ready", "serving", "met").await;
    let new = stack.spawn("server", &args);
    new.listening().await;
    old.stop().await;
    let (_, report) = admin.ready().await;
    assert_eq!(report["pid"], new.pid());
}
