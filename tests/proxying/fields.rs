use harness::raw::{Client, Reply};

use crate::{Proxied, get, request};

#[tokio::test]
async fn hop_by_hop_fields_are_removed_p002() {
    let proxied = Proxied::new().await;
    for (number, fields, gone) in [
        ("P1", &["Connection: keep-alive"][..], "connection"),
        ("P2", &["Connection: X-Foo", "X-Foo: 1"], "x-foo"),
        (
            "P3",
            &["Connection:", "Connection: X-Foo", "X-Foo: 1"],
            "x-foo",
        ),
        (
            "P3",
            &["Connection: x-a", "Connection: X-Foo", "X-Foo: 1"],
            "x-foo",
        ),
        ("P4", &["Connection: x-a , X-FOO,,", "X-Foo: 1"], "x-foo"),
        ("P7", &["Keep-Alive: timeout=5"], "keep-alive"),
        ("P7", &["Proxy-Connection: keep-alive"], "proxy-connection"),
        ("P7", &["TE: gzip"], "te"),
        ("P7", &["Trailer: Host"], "trailer"),
        ("P7", &["Proxy-Authenticate: Basic"], "proxy-authenticate"),
        (
            "P7",
            &["Proxy-Authorization: Basic eDp5"],
            "proxy-authorization",
        ),
        ("P8", &["Connection: TE", "TE: gzip, deflate;q=0.5"], "te"),
        ("P9", &["Proxy: http://evil"], "proxy"),
        ("P12", &["X_Forwarded_For: 1.2.3.4"], "x_forwarded_for"),
        ("P12", &["Transfer_Encoding: chunked"], "transfer_encoding"),
        (
            "P94",
            &["HTTP2-Settings: AAMAAABkAAQAAP__"],
            "http2-settings",
        ),
    ] {
        let outcome = proxied.probe(get(fields)).await;
        assert_eq!((outcome.status, outcome.continues), (200, true), "{number}");
        assert!(
            outcome.forwarded[0].fields(gone).is_empty(),
            "{number} {gone}"
        );
    }
}

#[tokio::test]
async fn caller_cannot_have_end_to_end_fields_removed_p005() {
    let proxied = Proxied::new().await;
    for (number, name, value) in [
        ("P5", "Authorization", "Bearer a.b.c"),
        ("P5", "Cache-Control", "no-store"),
        ("P5", "Content-Length", "0"),
        ("P5", "Host", "a"),
        ("P6", "X-Forwarded-For", "1.2.3.4"),
        ("P6", "X-Forwarded-Proto", "http"),
        ("P6", "Via", "1.1 other"),
    ] {
        let lines = [
            "GET / HTTP/1.1",
            &format!("{name}: {value}"),
            &format!("Connection: {name}"),
        ];
        let host: &[&str] = if name == "Host" { &[] } else { &["Host: a"] };
        let outcome = proxied.probe(request(&[&lines, host].concat(), "")).await;
        assert_eq!(outcome.status, 200, "{number} {name}");
        assert_eq!(
            outcome.forwarded[0].fields(name).len(),
            1 + usize::from(name == "Via"),
            "{number} {name}"
        );
    }
}

#[tokio::test]
async fn credential_crosses_once_and_unchanged_p011_p176() {
    let mut proxied = Proxied::new().await;
    let outcome = proxied.probe(get(&["Authorization: Bearer a.b.c"])).await;
    assert_eq!(
        outcome.forwarded[0].fields("authorization"),
        ["Bearer a.b.c"]
    );
    for second in ["Authorization: Bearer a.b.c", "Authorization: Basic eDp5"] {
        let outcome = proxied
            .probe(get(&["Authorization: Bearer a.b.c", second]))
            .await;
        assert_eq!(
            (outcome.status, outcome.continues),
            (400, false),
            "{second}"
        );
        assert!(outcome.forwarded.is_empty(), "{second}");
    }
    assert!(!proxied.proxy.whole_log().await.contains("a.b.c"));
}

#[tokio::test]
async fn octets_that_values_may_not_have_are_rejected_p013() {
    let proxied = Proxied::new().await;
    let with = |value: &[u8]| {
        [
            &b"GET / HTTP/1.1\r\nHost: a\r\nX-A: "[..],
            value,
            b"\r\n\r\n",
        ]
        .concat()
    };
    let outcome = proxied.probe(with(b"\x80\xffe")).await;
    assert_eq!((outcome.status, outcome.continues), (200, true), "P13");
    let bytes = &proxied.upstream.connections()[0].bytes;
    assert!(bytes.windows(3).any(|three| three == b"\x80\xffe"), "P13");
    for value in [&b"a\0b"[..], b"a\rb", b"a\x7fb", b"a\x01b", b"a\x1bb"] {
        let outcome = proxied.probe(with(value)).await;
        assert_eq!(
            (outcome.status, outcome.continues),
            (400, false),
            "P14 {value:?}"
        );
        assert!(outcome.forwarded.is_empty(), "P14 {value:?}");
    }
}

#[tokio::test]
async fn hop_by_hop_fields_of_answers_are_removed_p010() {
    let fields = "Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n\
        Upgrade: h2\r\nTrailer: X-T\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nSet-Cookie: c=3\r\nServer: theirs\r\n\
        Via: 1.0 inner\r\n";
    let answer = format!("HTTP/1.1 200 Their \u{e4} Reason\r\n{fields}Content-Length: 0\r\n\r\n");
    let proxied = Proxied::answered(move |_| Reply::Bytes(answer.clone().into()), &[]).await;
    let mut client = Client::sending(&proxied.https, get(&[])).await;
    let answer = client.answer().await.unwrap();
    for name in [
        "connection",
        "x-hop",
        "keep-alive",
        "proxy-authenticate",
        "upgrade",
        "trailer",
    ] {
        assert!(answer.fields(name).is_empty(), "P10 {name}");
    }
    assert_eq!(answer.fields("set-cookie"), ["a=1", "b=2", "c=3"], "P16");
    let [inner, own] = answer.fields("via")[..] else {
        panic!("P18: {:?}", answer.fields("via"));
    };
    assert_eq!(inner, "1.0 inner", "P18");
    assert!(own.starts_with("1.1 spiffe-jwt-proxy-"), "P18: {own}");
    assert_eq!(answer.fields("date").len(), 1, "P23");
    assert_eq!(answer.fields("server"), ["theirs"], "P24");
    assert_eq!(answer.start_line(), "HTTP/1.1 200 OK", "P125");

    let own = Client::sending(
        &proxied.https,
        request(&["GET /nowhere HTTP/1.1", "Host: a"], ""),
    )
    .await
    .answer()
    .await
    .unwrap();
    assert!(
        own.fields("server").is_empty(),
        "P24: the proxy does not name itself"
    );
}

#[tokio::test]
async fn forwarded_fields_come_from_the_connection_only_p021() {
    let proxied = Proxied::new().await;
    let claims = [
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Port",
        "X-Forwarded-Client-Cert",
        "X-Forwarded-Anything",
        "X-Real-IP",
        "Forwarded",
        "X-Client-Cert",
        "Client-Cert",
        "Client-Cert-Chain",
        "X-SPIFFE-ID",
        "X-Envoy-External-Address",
        "True-Client-IP",
        "X-Client-IP",
        "X-Remote-User",
        "Remote-User",
        "SSL-Client-Verify",
        "X-SSL-Client-S-DN",
        "X-Original-Forwarded-For",
        "X-Original-URL",
        "X-Rewrite-URL",
    ];
    let forged: Vec<String> = claims
        .iter()
        .map(|name| format!("{name}: forged"))
        .collect();
    let forged: Vec<&str> = forged.iter().map(String::as_str).collect();
    let outcome = proxied
        .probe(get(&[&forged[..], &forged[..]].concat()))
        .await;
    let head = &outcome.forwarded[0].head;
    assert!(!head.contains("forged"), "{head}");
    let forwarded = &outcome.forwarded[0];
    assert_eq!(forwarded.fields("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(forwarded.fields("x-forwarded-proto"), ["https"]);
    assert_eq!(forwarded.fields("x-forwarded-host"), ["a"]);
    assert!(
        forwarded.fields("forwarded").is_empty(),
        "P22: the proxy writes none"
    );
}
