use std::{collections::BTreeSet, future::pending};

use http::{Request, Version};
use http_body_util::Full;
use hyper::body::Bytes;
use serde_json::Value;

use harness::{
    CLIENT_ID, Stack,
    app::App,
    https::{Https, get},
    process::Process,
    raw, upstream,
};
use tokio::sync::mpsc;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// Each line of the access log has this text.
const ACCESS: &str = "\"target\":\"access\"";

/// Waits for this number of lines of the access log, and returns them.
async fn wait_for_lines(process: &Process, count: usize) -> Vec<Value> {
    let is_it = |line: &&String| line.contains(ACCESS);
    process.logged_times(ACCESS, count).await;
    let lines: Vec<Value> = process
        .log()
        .iter()
        .filter(is_it)
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), count);
    lines
}

fn json(requests: &str) -> [&str; 4] {
    ["--log-format", "json", "--log-requests", requests]
}

fn post(path: &str, fields: &[(&str, &str)], body: &'static str) -> Request<Full<Bytes>> {
    let mut request = get(fields).map(|_| Full::from(body));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = path.parse().unwrap();
    request
}

/// Asserts that a line has exactly these fields apart from times and addresses, which it has too.
fn assert_line(line: &Value, expected: &Value, also: &[&str]) {
    let line = line.as_object().unwrap();
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&line[field], value, "{field}: {line:?}");
    }
    let usual = [
        "timestamp",
        "level",
        "message",
        "target",
        "duration_ms",
        "peer",
    ];
    let names: BTreeSet<_> = line.keys().map(String::as_str).collect();
    let expected = expected.as_object().unwrap().keys().map(String::as_str);
    let expected: BTreeSet<_> = expected.chain(usual).chain(also.iter().copied()).collect();
    assert_eq!(names, expected);
    assert_eq!(
        (&line["level"], &line["message"]),
        (&"INFO".into(), &"request".into())
    );
    let total = line["duration_ms"].as_f64().unwrap();
    for part in also.iter().filter(|name| name.ends_with("_ms")) {
        let part = line[*part].as_f64().unwrap();
        assert!(0.0 < part && part <= total, "{line:?}");
    }
    assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
}

#[tokio::test]
async fn each_request_has_a_line_at_its_end_in_each_role() {
    let (stack, app) = (Stack::new().await, App::start("http").await);
    let args = [&json("all")[..], &["--upstream", &app.url]].concat();
    let server = stack.server(&args).await;
    let args = [&json("all")[..], &["--path", "/**"]].concat();
    let proxy = stack.proxy(server.listening().await, &args).await;
    let https = stack.https(proxy.listening().await);
    let bearer = stack.bearer();
    let traceparent = format!("00-{TRACE}-{SPAN}-01");
    let fields = [
        ("authorization", bearer.as_str()),
        ("traceparent", &traceparent),
    ];
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let request = post("/orders?secret=7", &fields, "a body");
        assert_eq!(https.send_over(version, request).await.status, 200);
    }
    let common = |protocol: &str| {
        serde_json::json!({
            "method": "POST", "path": "/orders", "protocol": protocol, "status": 200,
            "bytes_in": 6, "bytes_out": 6, "trace_id": TRACE, "span_id": SPAN,
        })
    };
    let of_proxy = wait_for_lines(&proxy, 2).await;
    assert_line(&of_proxy[0], &common("HTTP/1.1"), &["upstream_ms"]);
    assert_line(&of_proxy[1], &common("HTTP/2.0"), &["upstream_ms"]);
    for line in wait_for_lines(&server, 2).await {
        let mut expected = common("HTTP/2.0");
        expected["caller"] = CLIENT_ID.into();
        assert_line(&line, &expected, &["upstream_ms", "verification_ms"]);
    }
    for mut process in [proxy, server] {
        let log = process.whole_log().await;
        assert!(!log.contains("secret"), "no query");
        assert!(!log.contains("Request received") && !log.contains("POST /"));
    }
}

#[tokio::test]
async fn only_refused_requests_have_a_line_if_only_they_are_wanted() {
    let stack = Stack::new().await;
    let mut server = stack.server(&json("refused")).await;
    let https = stack.https(server.listening().await);
    let expired = stack.token(|jwt| jwt.payload["exp"] = 1.into());
    assert_eq!(https.status(&stack.token(|_| ())).await, 200);
    assert_eq!(https.status(&expired).await, 401);
    assert_eq!(https.status(&stack.token(|_| ())).await, 200);
    let lines = wait_for_lines(&server, 1).await;
    let expected = serde_json::json!({
        "method": "GET", "path": "/", "protocol": "HTTP/1.1", "status": 401, "reason": "expired",
        "bytes_in": 0, "bytes_out": "401 Unauthorized\n".len(),
    });
    assert_line(&lines[0], &expected, &["verification_ms"]);
    server
        .logged("Invalid token: jwtsvid: token has expired")
        .await;
    let log = server.whole_log().await;
    assert!(!log.contains("Request received"));
    assert_eq!(log.matches(ACCESS).count(), 1, "{log}");
}

#[tokio::test]
async fn no_request_has_a_line_if_none_is_wanted_except_the_warnings() {
    let stack = Stack::new().await;
    let mut server = stack.server(&json("none")).await;
    let https = stack.https(server.listening().await);
    assert_eq!(https.status(&stack.token(|_| ())).await, 200);
    assert_eq!(https.send(get(&[])).await.status, 401);
    let log = server.whole_log().await;
    assert!(!log.contains(ACCESS) && !log.contains("Request received"));
    assert!(log.contains("Malformed header: no bearer token"), "{log}");
}

#[tokio::test]
async fn request_that_ends_before_its_answer_has_a_line_without_a_status() {
    let stack = Stack::new().await;
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let silent = upstream::answering(&stack, &["h2"], move |_| {
        arrived.send(()).unwrap();
        pending()
    });
    let proxy = stack.proxy(silent.await, &json("all")).await;
    let https = stack.https(proxy.listening().await);
    let asking = async {
        https
            .send_over(Version::HTTP_2, post("/", &[], "abc"))
            .await
    };
    tokio::select! {
        _ = asking => panic!("it has an answer"),
        _ = arrivals.recv() => {}
    }
    let line = &wait_for_lines(&proxy, 1).await[0];
    assert_eq!(line["method"], "POST");
    assert_eq!(line.get("status"), None, "{line:?}");
}

#[tokio::test]
async fn requests_of_an_application_have_a_line_at_their_end() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let url = format!("https://localhost:{}", server.listening().await);
    let args = [
        &json("all")[..],
        &["--listen", "127.0.0.1:0", "--url", &url],
    ]
    .concat();
    let mut client = stack.spawn("client", &args);
    let https = Https::plain(client.listening().await);
    let request = "GET /?secret=7 HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut caller = raw::Client::sending(&https, request).await;
    assert_eq!(caller.answer().await.unwrap().status(), 200);
    let expected = serde_json::json!({
        "method": "GET", "path": "/", "protocol": "HTTP/1.1", "status": 200,
        "bytes_in": 0, "bytes_out": "Success!!!".len(),
    });
    assert_line(
        &wait_for_lines(&client, 1).await[0],
        &expected,
        &["upstream_ms"],
    );
    assert!(!client.whole_log().await.contains("GET /"));
}

#[test]
fn document_has_each_field_of_a_line() {
    let document = include_str!("../../deploy/access-log.md");
    let source = include_str!("../../crates/serve/src/access.rs");
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    let documented = rows.filter_map(|row| row.strip_prefix("| `")?.split('`').next());
    let documented: BTreeSet<_> = documented
        .filter(|name| !["all", "refused", "none", "--log-requests"].contains(name))
        .collect();
    let (_, line) = source.split_once("target: \"access\",").unwrap();
    let (line, _) = line.split_once("\"request\"").unwrap();
    let fields = line.lines().filter_map(|field| {
        let field = field.trim().trim_start_matches('%').trim_end_matches(',');
        let name = field.split(" = ").next()?;
        (!name.is_empty()).then_some(name)
    });
    assert_eq!(documented, fields.collect());
}
