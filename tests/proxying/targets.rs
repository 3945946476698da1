use harness::raw::{self, Client};

use crate::{Proxied, post, request};

const HOST: &str = "Host: a";

#[tokio::test]
async fn malformed_hosts_are_rejected_p069() {
    let proxied = Proxied::new().await;
    let line = "GET / HTTP/1.1";
    for (number, lines, status) in [
        ("P69", &[line][..], 400),
        ("P70", &[line, HOST, HOST], 400),
        ("P70", &[line, HOST, "Host: b"], 400),
        ("P71", &[line, "Host: a b/c@d"], 400),
        ("P71", &[line, "Host: user@a"], 400),
        ("P71", &[line, "Host:"], 400),
        ("P71", &[line, "Host: \u{e4}"], 400),
        ("P71", &[line, "Host: a:b"], 400),
        // There is only one upstream, so that a caller of HTTP/1.0 need not name a host.
        ("P72", &["GET / HTTP/1.0"], 200),
        ("P74", &["GET https://user:password@a/ HTTP/1.1", HOST], 400),
        ("P75", &["GET a:80 HTTP/1.1", HOST], 400),
        ("P75", &["GET a HTTP/1.1", HOST], 400),
        ("P76", &["GET * HTTP/1.1", HOST], 400),
    ] {
        let outcome = proxied.probe(request(lines, "")).await;
        assert_eq!(outcome.status, status, "{number} {lines:?}");
        assert!(!outcome.continues, "{number} {lines:?}");
        assert_eq!(
            outcome.forwarded.len(),
            usize::from(status == 200),
            "{number} {lines:?}"
        );
    }
}

#[tokio::test]
async fn absolute_target_replaces_host_p073() {
    let proxied = Proxied::new().await;
    let outcome = proxied
        .probe(request(&["GET https://evil/?x HTTP/1.1", HOST], ""))
        .await;
    assert_eq!((outcome.status, outcome.continues), (200, true));
    let forwarded = &outcome.forwarded[0];
    assert_eq!(forwarded.start_line(), "GET /?x HTTP/1.1");
    assert_eq!(forwarded.fields("x-forwarded-host"), ["evil"]);
    // P85, P173: the destination and its Host are the configured ones.
    let configured = format!("localhost:{}", proxied.upstream.port);
    assert_eq!(forwarded.fields("host"), [configured.as_str()], "P85 P173");

    let outcome = proxied
        .probe(request(&["GET http://evil/ HTTP/1.1", HOST], ""))
        .await;
    assert_eq!(
        (outcome.status, outcome.forwarded.len()),
        (400, 0),
        "TLS does not carry http"
    );
}

#[tokio::test]
async fn absolute_target_without_a_path_asks_for_slash_p073() {
    let proxied = Proxied::new().await;
    for (line, sent) in [
        ("GET https://localhost?x=1 HTTP/1.1", "GET /?x=1 HTTP/1.1"),
        ("HEAD https://localhost? HTTP/1.1", "HEAD /? HTTP/1.1"),
        ("GET https://a:1?/b?c HTTP/1.1", "GET /?/b?c HTTP/1.1"),
        ("GET https://localhost HTTP/1.1", "GET / HTTP/1.1"),
    ] {
        let before = proxied.upstream.requests().len();
        let request = request(&[line, HOST, "Connection: close"], "");
        let mut client = Client::sending(&proxied.https, request).await;
        let method = line.split(' ').next().unwrap();
        assert_eq!(
            client.answer_to(method).await.unwrap().status(),
            200,
            "{line}"
        );
        let forwarded = proxied.upstream.requests().split_off(before);
        assert_eq!(forwarded[0].start_line(), sent);
    }
    let outcome = proxied
        .probe(request(&["GET ?x=1 HTTP/1.1", HOST], ""))
        .await;
    assert_eq!((outcome.status, outcome.forwarded.len()), (400, 0));
}

#[tokio::test]
async fn options_of_the_proxy_itself_are_answered_with_204_p076() {
    let proxied = Proxied::new().await;
    let outcome = proxied
        .probe(request(&["OPTIONS * HTTP/1.1", HOST], ""))
        .await;
    assert_eq!((outcome.status, outcome.continues), (204, true));
    assert!(outcome.forwarded.is_empty());
    assert!(outcome.answer.unwrap().fields("allow")[0].contains("GET"));
    for (number, line, left) in [
        ("P20", "OPTIONS / HTTP/1.1", 0),
        ("P20", "OPTIONS / HTTP/1.1", 3),
    ] {
        let field = format!("Max-Forwards: {left}");
        let outcome = proxied.probe(request(&[line, HOST, &field], "")).await;
        if left == 0 {
            assert_eq!(
                (outcome.status, outcome.forwarded.len()),
                (204, 0),
                "{number}"
            );
        } else {
            assert_eq!(
                outcome.forwarded[0].fields("max-forwards"),
                ["2"],
                "{number}"
            );
        }
    }
}

#[tokio::test]
async fn connect_and_trace_are_never_forwarded_p077() {
    let proxied = Proxied::new().await;
    for (number, lines) in [
        ("P77", &["CONNECT a:443 HTTP/1.1", "Host: a:443"][..]),
        (
            "P79",
            &["TRACE / HTTP/1.1", HOST, "Authorization: Bearer a.b.c"],
        ),
        ("P20", &["TRACE / HTTP/1.1", HOST, "Max-Forwards: 0"]),
    ] {
        let outcome = proxied.probe(request(lines, "")).await;
        assert_eq!(
            (outcome.status, outcome.continues),
            (405, false),
            "{number}"
        );
        assert!(outcome.forwarded.is_empty(), "{number}");
        let answer = outcome.answer.unwrap();
        assert_eq!(answer.fields("allow").len(), 1, "{number}");
        assert!(
            !String::from_utf8_lossy(&answer.body).contains("a.b.c"),
            "{number}"
        );
    }
    // P88: the upstream decides about methods that the proxy does not know.
    for method in ["get", "PROPFIND"] {
        let outcome = proxied
            .probe(request(&[&format!("{method} / HTTP/1.1"), HOST], ""))
            .await;
        assert_eq!(outcome.status, 200, "P88 {method}");
        assert_eq!(
            outcome.forwarded[0].start_line(),
            format!("{method} / HTTP/1.1"),
            "P88"
        );
    }
}

#[tokio::test]
async fn targets_cross_byte_for_byte_or_not_at_all_p080() {
    let proxied = Proxied::new().await;
    for (number, target, status, forwarded) in [
        // The fragment is removed before any decision, for the proxy and the upstream alike.
        ("P80", "/?a#b", 200, Some("/?a")),
        ("P81", "/a/../canary", 404, None),
        ("P81", "/%2e%2e/", 404, None),
        ("P81", "/%2f", 404, None),
        ("P81", "/\\", 404, None),
        (
            "P81",
            "/?a/../b%2e%2e%2f\\",
            200,
            Some("/?a/../b%2e%2e%2f\\"),
        ),
        ("P82", "//evil.com/x", 404, None),
        ("P82", "//", 404, None),
        ("P83", "/?%zz%0d%0aX:1", 200, Some("/?%zz%0d%0aX:1")),
        ("P84", "/?\u{1}", 400, None),
        ("P84", "/?\u{e4}", 400, None),
        ("P84", "/?\"", 400, None),
        ("P84", "/?<>", 400, None),
        ("P84", "/?^", 400, None),
        ("P84", "/?a|b", 400, None),
        (
            "P174",
            "/?b=2&a=1;c&&d=%41+%20",
            200,
            Some("/?b=2&a=1;c&&d=%41+%20"),
        ),
    ] {
        let outcome = proxied
            .probe(request(&[&format!("GET {target} HTTP/1.1"), HOST], ""))
            .await;
        assert_eq!(outcome.status, status, "{number} {target}");
        let lines: Vec<_> = outcome
            .forwarded
            .iter()
            .map(|one| one.start_line())
            .collect();
        let expected = forwarded.map(|target| format!("GET {target} HTTP/1.1"));
        assert_eq!(lines, Vec::from_iter(expected), "{number}");
    }
}

#[tokio::test]
async fn paths_below_a_pattern_are_forwarded_and_those_with_two_readings_are_404_h001_h002() {
    let paths = ["--path", "/api/**", "--path", "/a%2Fb"];
    let proxied = Proxied::answered(raw::echo, &paths).await;
    for (number, target, status) in [
        ("H1", "/api/", 200),
        ("H1", "/api/v1/orders?a/../b//;%2f", 200),
        ("H1", "/api/caf%C3%A9%20x", 200),
        ("H1", "/api", 404),
        ("H1", "/apis/x", 404),
        ("H1", "/API/x", 404),
        ("H1", "/%61pi/x", 404),
        ("H2", "/api/../canary", 404),
        ("H2", "/api/.", 404),
        ("H2", "/api//x", 404),
        ("H2", "//api/x", 404),
        ("H2", "/api/a;b", 404),
        ("H2", "/api/a\\b", 404),
        ("H2", "/api/a%2Fb", 404),
        ("H2", "/api/%2e%2e/x", 404),
        ("H2", "/api/a%5Cb", 404),
        ("H2", "/api/a%00", 404),
        ("H2", "/api/%252e%252e/x", 404),
        ("H2", "/a%2Fb", 200),
        ("H2", "/a%2fb", 404),
    ] {
        let line = format!("GET {target} HTTP/1.1");
        let outcome = proxied.probe(request(&[&line, HOST], "")).await;
        assert_eq!(outcome.status, status, "{number} {target}");
        let lines = outcome.forwarded.iter().map(|one| one.start_line());
        let expected = (status == 200).then_some(line.as_str());
        assert_eq!(
            lines.collect::<Vec<_>>(),
            Vec::from_iter(expected),
            "{number}"
        );
    }
}

#[tokio::test]
async fn request_lines_of_other_protocols_are_rejected_p086() {
    let proxied = Proxied::new().await;
    for (number, bytes) in [
        ("P86", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("P86", "GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n"),
        ("P86", "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
        ("P86", "GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
        ("P86", "GET /\r\n\r\n"),
        ("P87", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ] {
        let outcome = proxied.probe(bytes).await;
        assert!(
            matches!(outcome.status, 0 | 400 | 505),
            "{number} {bytes:?} {outcome:?}"
        );
        assert!(
            !outcome.continues && outcome.forwarded.is_empty(),
            "{number} {bytes:?}"
        );
    }
}

#[tokio::test]
async fn line_ends_never_reach_fields_that_the_proxy_writes_p127() {
    let proxied = Proxied::new().await;
    let outcome = proxied.probe(post(&["Content-Length: 0"], "")).await;
    assert_eq!(outcome.forwarded[0].fields("x-forwarded-host"), ["a"]);
    for host in ["a\rb", "a\0b", "a%0d%0ab c"] {
        let line = format!("Host: {host}");
        let outcome = proxied.probe(request(&["GET / HTTP/1.1", &line], "")).await;
        assert_eq!(
            (outcome.status, outcome.forwarded.len()),
            (400, 0),
            "P127 {host:?}"
        );
    }
}
