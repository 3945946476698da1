use harness::frames::END_HEADERS;

use super::{AUTHORITY, Client, GET, METHOD, Outcome, PATH, SCHEME, sent};
use crate::Proxied;

#[tokio::test]
async fn heads_that_http2_does_not_allow_end_their_stream_or_connection_p093() {
    let proxied = Proxied::new().await;
    assert_eq!(sent(&proxied, &GET).await, Outcome::Status(200));
    let with = |field| [&GET[..], &[field]].concat();
    for (number, fields) in [
        ("P14", with(("x-a", "a\0b"))),
        ("P14", with(("x-a", "a\rb"))),
        ("P93", with(("X-Upper", "1"))),
        ("P93", with(("x-a", "a\r\nb: c"))),
        ("P93", with(("x:a", "1"))),
        ("P93", with(("x a", "1"))),
        ("P93", with(("connection", "close"))),
        ("P93", with(("transfer-encoding", "chunked"))),
        ("P93", with(("upgrade", "h2c"))),
        ("P93", with(("keep-alive", "1"))),
        ("P93", with(("proxy-connection", "1"))),
        ("P93", with(("te", "gzip"))),
        ("P93", with(PATH)),
        ("P93", with((":odd", "1"))),
        ("P93", with((":status", "200"))),
        ("P93", vec![METHOD, SCHEME, AUTHORITY, ("x-a", "1"), PATH]),
        ("P93", with(AUTHORITY)),
        ("P93", with(METHOD)),
        ("P93", vec![(":method", "G T"), SCHEME, AUTHORITY, PATH]),
        (
            "P93",
            vec![(":method", "GET / HTTP/1.1\r\nx:"), SCHEME, AUTHORITY, PATH],
        ),
        ("P93", vec![SCHEME, AUTHORITY, PATH]),
        ("P93", vec![METHOD, SCHEME, AUTHORITY]),
        ("P93", vec![METHOD, SCHEME, AUTHORITY, (":path", "")]),
        (
            "P93",
            vec![METHOD, SCHEME, AUTHORITY, (":path", "/ HTTP/1.1\r\nx: y")],
        ),
        ("P84", vec![METHOD, SCHEME, AUTHORITY, (":path", "/?a b")]),
        ("P75", vec![METHOD, SCHEME, AUTHORITY, (":path", "x")]),
        ("P71", vec![METHOD, SCHEME, (":authority", "a:1:2"), PATH]),
    ] {
        assert_eq!(
            sent(&proxied, &fields).await,
            Outcome::Refused,
            "{number} {fields:?}"
        );
    }
    assert_eq!(proxied.upstream.requests().len(), 1);
}

/// This octet is the only one that names may have over HTTP/2 and not over HTTP/1.1.
#[tokio::test]
async fn name_with_a_quote_is_rejected_p051() {
    let proxied = Proxied::new().await;
    let fields = [&GET[..], &[("x\"a", "1")]].concat();
    assert_eq!(sent(&proxied, &fields).await, Outcome::Status(400));
    assert!(proxied.upstream.requests().is_empty());
}

#[tokio::test]
async fn authority_scheme_and_path_are_checked_over_http2_p089() {
    let proxied = Proxied::new().await;
    for (number, fields, status) in [
        (
            "P89",
            vec![METHOD, SCHEME, AUTHORITY, PATH, ("host", "b")],
            400,
        ),
        (
            "P89",
            vec![METHOD, SCHEME, AUTHORITY, PATH, ("host", "a")],
            200,
        ),
        ("P90", vec![METHOD, SCHEME, PATH], 400),
        ("P90", vec![METHOD, SCHEME, PATH, ("host", "a")], 200),
        (
            "P92",
            vec![METHOD, (":scheme", "http"), AUTHORITY, PATH],
            400,
        ),
        (
            "P92",
            vec![METHOD, (":scheme", "ftp"), AUTHORITY, PATH],
            400,
        ),
        (
            "P80",
            vec![METHOD, SCHEME, AUTHORITY, (":path", "/#b")],
            200,
        ),
        ("P76", vec![METHOD, SCHEME, AUTHORITY, (":path", "*")], 400),
        (
            "P75",
            vec![METHOD, SCHEME, AUTHORITY, (":path", "?x=1")],
            400,
        ),
        ("P75", vec![METHOD, SCHEME, AUTHORITY, (":path", "?")], 400),
        ("P75", vec![METHOD, SCHEME, AUTHORITY, (":path", "?/")], 400),
        (
            "P76",
            vec![(":method", "OPTIONS"), SCHEME, AUTHORITY, (":path", "*")],
            204,
        ),
        (
            "P84",
            vec![METHOD, SCHEME, AUTHORITY, (":path", "/?\u{e4}")],
            400,
        ),
        (
            "P82",
            vec![METHOD, SCHEME, AUTHORITY, (":path", "//evil.com/x")],
            404,
        ),
        (
            "P71",
            vec![METHOD, SCHEME, (":authority", "a,b"), PATH],
            400,
        ),
        (
            "P74",
            vec![METHOD, SCHEME, (":authority", "u@a"), PATH],
            400,
        ),
        (
            "P70",
            vec![
                METHOD,
                SCHEME,
                AUTHORITY,
                PATH,
                ("host", "a"),
                ("host", "a"),
            ],
            400,
        ),
        (
            "P11",
            [&GET[..], &[("authorization", "Bearer a.b.c"); 2]].concat(),
            400,
        ),
    ] {
        let before = proxied.upstream.requests().len();
        assert_eq!(
            sent(&proxied, &fields).await,
            Outcome::Status(status),
            "{number} {fields:?}"
        );
        let forwarded = proxied.upstream.requests().split_off(before);
        assert_eq!(
            forwarded.len(),
            usize::from(status == 200),
            "{number} {fields:?}"
        );
        for message in forwarded {
            // P91: the request is forwarded over HTTP/1.1, whatever version the caller used.
            let host = format!("localhost:{}", proxied.upstream.port);
            assert_eq!(message.start_line(), "GET / HTTP/1.1", "P91");
            assert_eq!(message.fields("host"), [host.as_str()], "P91");
            assert_eq!(message.fields("x-forwarded-host"), ["a"], "P91");
            assert_eq!(message.fields("x-forwarded-proto"), ["https"], "P92");
        }
    }
}

#[tokio::test]
async fn connect_makes_no_tunnel_over_http2_p077() {
    let proxied = Proxied::new().await;
    let connect = [(":method", "CONNECT"), (":authority", "a:443")];
    let mut client = Client::new(&proxied.https).await;
    client.headers(END_HEADERS, &connect).await;
    assert_eq!(client.outcome().await, Outcome::OtherStatus);
    let connect = [
        (":method", "CONNECT"),
        (":protocol", "connect-udp"),
        SCHEME,
        AUTHORITY,
        PATH,
    ];
    assert_eq!(sent(&proxied, &connect).await, Outcome::OtherStatus);
    assert!(proxied.upstream.connections().is_empty());
}

#[tokio::test]
async fn http2_fields_are_forwarded_as_http1_writes_them_p017() {
    let proxied = Proxied::new().await;
    let fields = [
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("x-a", " \t1 "),
        ("http2-settings", "x"),
        ("te", "trailers"),
    ];
    assert_eq!(
        sent(&proxied, &[&GET[..], &fields].concat()).await,
        Outcome::Status(200)
    );
    let message = &proxied.upstream.requests()[0];
    assert_eq!(message.fields("cookie"), ["a=1; b=2"], "P17");
    assert!(message.head.contains("x-a: 1\r\n"), "P15 {}", message.head);
    assert!(message.fields("http2-settings").is_empty(), "P94");
    assert_eq!(message.fields("te"), ["trailers"], "P8");
    let via = message.fields("via");
    assert!(via[0].starts_with("2.0 spiffe-jwt-proxy-"), "P18: {via:?}");
}

/// HTTP/1.1 would not allow these octets, and no terminal and no log should get them.
#[tokio::test]
async fn log_lines_cannot_be_forged_over_http2_p175() {
    let mut proxied = Proxied::new().await;
    for path in ["/\u{2028}INFO", "/\u{85}", "/\u{202e}dorg", "/\u{9b}31m"] {
        let fields = [METHOD, SCHEME, AUTHORITY, (":path", path)];
        assert_eq!(sent(&proxied, &fields).await, Outcome::Status(400));
    }
    let log = proxied.proxy.whole_log().await;
    assert!(log.contains(r"path=/\u{202e}dorg"), "{log}");
    for line in log.lines() {
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
        assert!(!line.contains(['\u{2028}', '\u{202e}']), "{line:?}");
    }
}
