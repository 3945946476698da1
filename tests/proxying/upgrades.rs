use harness::raw::{self, Client, Reply};

use crate::{CANARY, Proxied, get, post, request};

#[tokio::test]
async fn upgrades_are_not_forwarded_p098() {
    let proxied = Proxied::new().await;
    for (number, fields) in [
        (
            "P98",
            &[
                "Connection: Upgrade, HTTP2-Settings",
                "Upgrade: h2c",
                "HTTP2-Settings: AAMAAABkAAQAAP__",
            ][..],
        ),
        ("P98", &["Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"]),
        (
            "P99",
            &[
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: x",
            ],
        ),
    ] {
        let outcome = proxied.probe(get(fields)).await;
        assert_eq!(outcome.status, 200, "{number}");
        assert!(
            outcome.answer.unwrap().head.starts_with("HTTP/1.1 200"),
            "{number}"
        );
        for name in ["connection", "upgrade", "http2-settings"] {
            assert!(
                outcome.forwarded[0].fields(name).is_empty(),
                "{number} {name}"
            );
        }
        // P102: the bytes after it may be of the other protocol, and are not read as a request.
        assert!(!outcome.continues, "P102");
    }
}

#[tokio::test]
async fn bytes_after_a_refused_connect_are_not_read_p078() {
    let proxied = Proxied::new().await;
    let connect = request(&["CONNECT a:443 HTTP/1.1", "Host: a:443"], "");
    let outcome = proxied.probe(connect).await;
    assert_eq!((outcome.status, outcome.continues), (405, false));
    let to_nowhere = request(
        &["GET /nowhere HTTP/1.1", "Host: a", "Upgrade: websocket"],
        "",
    );
    let outcome = proxied.probe(to_nowhere).await;
    assert_eq!((outcome.status, outcome.continues), (404, false), "P102");
}

#[tokio::test]
async fn switch_of_protocols_without_a_request_for_it_is_502_p101() {
    let switch =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhello";
    let proxied = Proxied::answered(|_| Reply::Bytes(switch.into()), &[]).await;
    let mut client = Client::sending(&proxied.https, get(&[])).await;
    assert_eq!(client.answer().await.unwrap().status(), 502);
    proxied.upstream.wait(|all| all[0].ended).await;
    proxied.proxy.logged("switched protocols").await;
}

#[tokio::test]
async fn interim_answers_of_the_upstream_are_not_forwarded_p103() {
    for (number, interim) in [
        ("P103", "HTTP/1.1 100 Continue\r\n\r\n".to_owned()),
        (
            "P104",
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_owned(),
        ),
        (
            "P105",
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(1000),
        ),
    ] {
        let answer = format!("{interim}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        let proxied = Proxied::answered(move |_| Reply::Bytes(answer.clone().into()), &[]).await;
        let mut client = Client::sending(&proxied.https, get(&[])).await;
        let answer = client.answer().await.unwrap();
        assert_eq!(
            (answer.status(), answer.body.as_slice()),
            (200, &b"ok"[..]),
            "{number}"
        );
        assert!(answer.fields("link").is_empty(), "{number}");
    }
}

#[tokio::test]
async fn endless_interim_answers_are_not_an_answer_p105() {
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(1000);
    let proxied = Proxied::answered(
        move |_| Reply::Bytes(interim.clone().into()),
        &["--response-timeout", "300ms"],
    )
    .await;
    let mut client = Client::sending(&proxied.https, get(&[])).await;
    assert_eq!(client.answer().await.unwrap().status(), 504);
    proxied.upstream.wait(|all| all[0].ended).await;
}

#[tokio::test]
async fn client_that_expects_100_is_asked_for_its_body_p106() {
    let proxied = Proxied::new().await;
    let waiting = post(&["Content-Length: 3", "Expect: 100-continue"], "");
    let mut client = Client::sending(&proxied.https, waiting).await;
    assert_eq!(client.answer().await.unwrap().status(), 100);
    client.send("abc").await;
    assert_eq!(client.answer().await.unwrap().status(), 200);
    let forwarded = &proxied.upstream.requests()[0];
    assert_eq!(forwarded.body, b"abc");
    assert!(forwarded.fields("expect").is_empty(), "P108");

    let unknown = request(
        &[
            "POST /nowhere HTTP/1.1",
            "Host: a",
            "Content-Length: 3",
            "Expect: 100-continue",
        ],
        "",
    );
    let mut client = Client::sending(&proxied.https, unknown).await;
    assert_eq!(
        client.answer().await.unwrap().status(),
        404,
        "P106: no body is asked for"
    );
}

#[tokio::test]
async fn unknown_expectations_are_rejected_p046() {
    let proxied = Proxied::new().await;
    for (number, bytes, status, forwarded) in [
        (
            "P46",
            post(&["Content-Length: 3", "Expect: y 100-continue"], "abc"),
            417,
            0,
        ),
        (
            "P46",
            post(
                &["Content-Length: 3", "Expect: 100-continue", "Expect: y"],
                "abc",
            ),
            417,
            0,
        ),
        (
            "P107",
            request(
                &[
                    "POST / HTTP/1.0",
                    "Host: a",
                    "Content-Length: 3",
                    "Expect: y",
                ],
                "abc",
            ),
            200,
            1,
        ),
        (
            "P107",
            request(
                &[
                    "POST / HTTP/1.0",
                    "Host: a",
                    "Content-Length: 3",
                    "Expect: 100-continue",
                ],
                "abc",
            ),
            200,
            1,
        ),
    ] {
        let outcome = proxied.probe(bytes).await;
        assert_eq!(
            (outcome.status, outcome.forwarded.len()),
            (status, forwarded),
            "{number}"
        );
        assert!(!outcome.continues, "{number}");
    }
    // The body follows the head directly. It is one request for the upstream, with or without a 100
    // before.
    let at_once = post(&["Content-Length: 3", "Expect: 100-continue"], "abc");
    let mut client = Client::sending(&proxied.https, [at_once.as_bytes(), CANARY].concat()).await;
    let mut statuses = Vec::new();
    while statuses.len() < 4 && statuses.iter().filter(|&&status| status == 200).count() < 2 {
        statuses.push(client.answer().await.unwrap().status());
    }
    assert!(statuses.ends_with(&[200, 200]), "P46 {statuses:?}");
    let requests = proxied.upstream.requests();
    let [.., first, canary] = requests.as_slice() else {
        panic!("{requests:?}");
    };
    assert_eq!(first.body, b"abc", "P46");
    assert!(canary.start_line().starts_with("GET /canary "), "P46");
    assert_eq!(requests.len(), 4, "P46");
}

#[tokio::test]
async fn answers_to_head_and_of_204_and_304_have_no_body_p109() {
    let head = request(&["HEAD / HTTP/1.1", "Host: a"], "");
    let proxied = Proxied::answered(
        |_| Reply::Bytes("HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n".into()),
        &[],
    )
    .await;
    let mut client = Client::sending(&proxied.https, head).await;
    let answer = client.answer_to("HEAD").await.unwrap();
    assert_eq!(answer.fields("content-length"), ["17"], "P109");

    for (number, method, status, body) in [
        ("P110", "HEAD", "200 OK", "hello"),
        ("P110", "GET", "204 No Content", "hello"),
        ("P110", "GET", "304 Not Modified", "hello"),
        ("P111", "GET", "204 No Content", ""),
        ("P112", "GET", "304 Not Modified", ""),
    ] {
        let bytes = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n{body}");
        let proxied = Proxied::answered(
            move |request| {
                if request.start_line().contains("canary") {
                    raw::echo(request)
                } else {
                    Reply::Bytes(bytes.clone().into())
                }
            },
            &[],
        )
        .await;
        let first = request(&[&format!("{method} / HTTP/1.1"), "Host: a"], "");
        let mut client = Client::sending(&proxied.https, first).await;
        let answer = client.answer_to(method).await.unwrap();
        assert_eq!(
            answer.status().to_string(),
            status[..3],
            "{number} {method}"
        );
        if method == "GET" {
            assert!(answer.fields("content-length").is_empty(), "{number}");
        }
        if !body.is_empty() {
            proxied.upstream.wait(|all| all[0].ended).await;
        }
        client.send(CANARY).await;
        let canary = client.answer().await.unwrap();
        assert_eq!(canary.body, b"/canary", "{number} {method}");
    }
}
