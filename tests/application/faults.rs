use harness::{
    Stack,
    process::{self, Process, free_ports},
};
use tokio::{
    io::{AsyncWriteExt, copy, sink},
    net::TcpListener,
};

/// Asks through a server in front of `url`, and returns the status and the server.
async fn asked(stack: &Stack, url: &str) -> (u16, Process) {
    let server = stack
        .server(&["--upstream", url, "--response-timeout", "1s"])
        .await;
    let https = stack.https(server.listening().await);
    (https.status(&stack.token(|_| ())).await, server)
}

#[tokio::test]
async fn an_application_that_is_down_is_502_and_logged_with_its_address_u006() {
    let stack = Stack::new().await;
    let [port] = free_ports();
    let missing = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", missing.path().join("app.sock").display());
    for url in [
        format!("http://127.0.0.1:{port}"),
        format!("h2c://127.0.0.1:{port}"),
        socket,
    ] {
        let (status, server) = asked(&stack, &url).await;
        assert_eq!(status, 502, "{url}");
        let line = server.logged("cannot connect to").await;
        assert!(
            line.contains(url.as_str()) && line.contains("ERROR"),
            "{line}"
        );
        let lines = server.log();
        let about: Vec<_> = lines
            .iter()
            .filter(|line| line.contains("cannot connect"))
            .collect();
        assert_eq!(about.len(), 1, "{about:?}");
    }
}

#[tokio::test]
async fn an_application_that_does_not_answer_is_504_u006() {
    let stack = Stack::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let holding = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((io, _)) = listener.accept().await {
            held.push(io);
        }
    });
    let (status, server) = asked(&stack, &format!("http://{address}")).await;
    assert_eq!(status, 504);
    server.logged("did not answer in time").await;
    holding.abort();
}

#[tokio::test]
async fn an_application_that_answers_nonsense_is_502_u006() {
    let stack = Stack::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answering = tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            tokio::spawn(async move {
                // An error means that the server has closed the connection.
                let _ = io.write_all(b"\x16\x03\x01 what is this\r\n\r\n").await;
                let _ = copy(&mut io, &mut sink()).await;
            });
        }
    });
    for scheme in ["http", "h2c"] {
        let url = format!("{scheme}://{address}");
        let (status, server) = asked(&stack, &url).await;
        assert_eq!(status, 502, "{scheme}");
        let line = server.logged("ERROR").await;
        assert!(line.contains(&url), "{line}");
    }
    answering.abort();
}

#[tokio::test]
async fn flags_that_contradict_each_other_end_the_server_before_it_listens_u007() {
    let stack = Stack::new().await;
    for (args, text) in [
        (
            &["--upstream", "http://app.example:80"] as &[&str],
            "--plaintext-upstream",
        ),
        (&["--upstream", "https://localhost:1"], "--upstream-id"),
        (&["--public", "/"], "--upstream"),
        (
            &["--upstream", "unix:/a", "--public", "a"],
            "expected a path from /",
        ),
    ] {
        let output = process::output("server", &stack.agent.endpoint(), args).await;
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(log.contains(text), "{args:?}: {log}");
        assert!(!log.contains("listening on"), "{log}");
    }
}
