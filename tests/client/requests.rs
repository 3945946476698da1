use http::StatusCode;
use http_body_util::BodyExt;
use serve::body;

use harness::{
    SERVER_ID, Stack, binary, process,
    raw::{self, Reply},
    upstream,
};

#[tokio::test]
async fn token_for_another_audience_is_answered_with_401() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let proxy = stack.proxy(server.listening().await, &[]).await;

    let output = stack
        .client(
            proxy.listening().await,
            &["spiffe://example.org/some-other-server"],
        )
        .await;

    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "401 Unauthorized\n"
    );
    assert_eq!(output.stdout, b"");
    server
        .logged(r#"Invalid token: jwtsvid: expected audience in ["spiffe://example.org/server"] (audience=["spiffe://example.org/some-other-server"])"#)
        .await;
}

#[tokio::test]
async fn token_for_several_audiences_is_accepted_by_each_with_a_warning_t004() {
    let stack = Stack::new().await;
    for audience in ["a", SERVER_ID] {
        let server = stack.server(&["--audience", audience]).await;
        let args = ["a", SERVER_ID, "a"];
        let output = stack.client(server.listening().await, &args).await;
        assert_eq!(output.stdout, b"Success!!!", "{audience}");
        let errors = String::from_utf8_lossy(&output.stderr);
        let warning = "the token is for 2 audiences: each of them can send it to the others";
        assert!(errors.contains(warning), "{errors}");
    }
}

#[tokio::test]
async fn method_type_and_body_follow_the_flags_as_with_curl() {
    let stack = Stack::new().await;
    let echo = upstream::answering(&stack, &["h2", "http/1.1"], async |request| {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let kind = head.headers["content-type"].to_str().unwrap();
        let text = format!("{} {kind} {}", head.method, String::from_utf8_lossy(&body));
        body::text(StatusCode::CREATED, text)
    })
    .await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "from a file").unwrap();
    let data = format!("@{}", file.path().display());
    for (args, body) in [
        (
            &["-d", "a=b"] as &[&str],
            "POST application/x-www-form-urlencoded a=b",
        ),
        (
            &["-X", "PUT", "-H", "Content-Type: text/plain", "-d", &data],
            "PUT text/plain from a file",
        ),
    ] {
        let output = stack.client(echo, args).await;
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), body);
    }
    let output = stack.client(echo, &["-i", "-d", "x"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("HTTP/2.0 201 Created\r\n"), "{text}");
    assert!(
        text.ends_with("\r\n\r\nPOST application/x-www-form-urlencoded x"),
        "{text}"
    );
}

#[tokio::test]
async fn redirects_are_printed_and_not_followed() {
    let stack = Stack::new().await;
    let elsewhere = upstream::answering(&stack, &["h2"], async |_| {
        let mut response = body::status(StatusCode::FOUND);
        response
            .headers_mut()
            .insert("location", "https://elsewhere.example/".parse().unwrap());
        response
    })
    .await;

    let output = stack.client(elsewhere, &[]).await;

    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "302 Found to https://elsewhere.example/ (not followed)\n"
    );
}

#[tokio::test]
async fn server_with_another_id_gets_no_token() {
    let stack = Stack::new().await;
    let recording = upstream::Recording::new(&stack).await;

    let output = stack
        .client(
            recording.port,
            &["--server-id", "spiffe://example.org/other"],
        )
        .await;

    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    let expected = "is not who it should be: expected spiffe://example.org/other, presented spiffe://example.org/server";
    assert!(text.contains(expected), "{text}");
    assert_eq!(text.lines().count(), 1);
    assert_eq!(recording.bytes.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn ca_that_cannot_be_used_is_refused_before_an_address_is_bound_or_a_token_is_issued() {
    // A client that asked for a token or for bundles would say that this agent is not there.
    let nobody = "unix:///no/such/agent.sock";
    let named = [SERVER_ID, "--server-name", "lb"];
    let missing = ["--ca", "/no/such/ca.pem"];
    let route = format!("a=https://b;audience={SERVER_ID};server-name=b;ca=/no/such/ca.pem");
    let admin = ["--admin", "127.0.0.1:0"];
    for (args, text) in [
        (
            [&named[..], &missing].concat(),
            "--ca /no/such/ca.pem: No such file",
        ),
        (
            [&named[..], &missing, &admin, &["--repeat", "1"]].concat(),
            "--ca /no/such/ca.pem: No such file",
        ),
        (
            [&admin[..], &["--listen", "127.0.0.1:0", "--route", &route]].concat(),
            "--route ca=/no/such/ca.pem: No such file",
        ),
        (named.to_vec(), "no CA certificates are installed"),
    ] {
        let mut command = process::command(&binary("client"), nobody, &args);
        let command = command.env("SSL_CERT_FILE", "/dev/null");
        let output = command.env("SSL_CERT_DIR", "/no/such/directory").output();
        let output = output.await.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {error}");
        assert!(error.contains(text), "{args:?}: {error}");
        assert!(!error.contains("admin listener"), "{args:?}: {error}");
    }
}

#[tokio::test]
async fn connection_refused_is_reported_in_one_line() {
    let stack = Stack::new().await;
    let [free] = process::free_ports();

    let output = stack.client(free, &[]).await;

    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.starts_with(&format!(
            "client: cannot connect to https://localhost:{free}/"
        )),
        "{text}"
    );
    assert!(
        text.contains("onnection refused") && text.lines().count() == 1,
        "{text}"
    );
}

#[tokio::test]
async fn connection_that_ends_without_an_answer_is_reported() {
    let stack = Stack::new().await;
    let ending = raw::Upstream::new(&stack, |_| Reply::Last(Vec::new())).await;

    // A POST is not sent again.
    let output = stack.client(ending.port, &["-d", "x"]).await;

    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"");
    let text = String::from_utf8(output.stderr).unwrap();
    let failed = format!("client: https://localhost:{}/ failed: ", ending.port);
    assert!(text.starts_with(&failed), "{text}");
    assert!(text.contains("connection closed"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert_eq!(ending.requests().len(), 1);
}

#[tokio::test]
async fn answer_that_does_not_end_within_max_time_is_reported() {
    let stack = Stack::new().await;
    // The answer has begun, so that no other deadline of the client applies.
    let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let upstream = raw::Upstream::new(&stack, |_| Reply::Bytes(begun.into())).await;
    let port = upstream.port;

    let output = stack.client(port, &["-m", "2s"]).await;

    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        format!(
            "client: not done within 2s (--max-time): no complete answer from https://localhost:{port}/\n"
        )
    );
}

#[tokio::test]
async fn the_token_and_the_bundle_are_printed_only_on_request() {
    let stack = Stack::new().await;

    let token = stack.client(1, &["--print-token"]).await;
    let token = String::from_utf8(token.stdout).unwrap();
    let svid = spiffe::JwtSvid::parse_insecure(token.trim_end()).unwrap();
    assert_eq!(
        (svid.audience(), svid.spiffe_id().path()),
        (&[SERVER_ID.to_owned()][..], "/client")
    );

    let bundle = stack.client(1, &["--print-bundle"]).await;
    let bundle = String::from_utf8(bundle.stdout).unwrap();
    assert_eq!(bundle, stack.agent.x509_bundle_pem());

    for status in ["200 OK", "401 Unauthorized"] {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        let script = move |_: &raw::Message| Reply::Bytes(answer.clone().into());
        let upstream = raw::Upstream::new(&stack, script).await;
        for args in [&[] as &[&str], &["-i"], &["--repeat", "1"]] {
            let output = stack.client(upstream.port, args).await;
            let printed = [output.stdout, output.stderr].concat();
            let printed = String::from_utf8(printed).unwrap();
            let sent = upstream.requests();
            let authorization = sent.last().unwrap().fields("authorization")[0];
            let token = authorization.strip_prefix("Bearer ").unwrap();
            for secret in token.split('.').chain(["CERTIFICATE"]) {
                assert!(!printed.contains(secret), "{args:?}: {printed}");
            }
        }
    }
}
