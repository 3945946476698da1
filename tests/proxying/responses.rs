use harness::{
    https,
    raw::{self, Client, End, Reply},
};
use http::Version;
use http_body_util::BodyExt;

use crate::{CANARY, Proxied, get, request};

/// Starts an upstream that answers `/` with exactly `bytes` and the canary correctly, and the
/// proxy.
async fn answering(bytes: &[u8], then_close: bool) -> Proxied {
    let bytes = bytes.to_vec();
    Proxied::answered(
        move |request| match (request.start_line().contains("canary"), then_close) {
            (true, _) => raw::echo(request),
            (false, true) => Reply::Last(bytes.clone()),
            (false, false) => Reply::Bytes(bytes.clone()),
        },
        &[],
    )
    .await
}

#[tokio::test]
async fn answers_with_two_lengths_or_none_are_502_p113() {
    let chunked = "Transfer-Encoding: chunked";
    let many: String = (0..257).map(|n| format!("X-{n}: 1\r\n")).collect();
    let long = format!("X-A: {}\r\n", "x".repeat(500 * 1024));
    let ok = "HTTP/1.1 200 OK\r\n";
    for (number, answer) in [
        (
            "P113",
            format!("{ok}Content-Length: 3\r\n{chunked}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ),
        (
            "P113",
            format!("{ok}{chunked}\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ),
        (
            "P114",
            format!("{ok}Content-Length: 30\r\n{chunked}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ),
        ("P115", format!("{ok}Content-Length: 5, 5\r\n\r\nhello")),
        ("P115", format!("{ok}Content-Length: +5\r\n\r\nhello")),
        (
            "P116",
            format!("{ok}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
        ),
        (
            "P117",
            format!("{ok}Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ),
        ("P117", format!("{ok}Transfer-Encoding: gzip\r\n\r\nhello")),
        (
            "P118",
            format!("HTTP/1.0 200 OK\r\n{chunked}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ),
        ("P123", format!("{ok}X-A: 1\r\n folded\r\n\r\n")),
        ("P123", format!("{ok}Content-Length : 0\r\n\r\n")),
        (
            "P123",
            "HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n".to_owned(),
        ),
        (
            "P123",
            "HTTP/1.1 20 Odd\r\nContent-Length: 0\r\n\r\n".to_owned(),
        ),
        (
            "P123",
            "HTTP/3.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(),
        ),
        ("P123", "hello\r\n\r\n".to_owned()),
        ("P123", format!("{ok}{many}Content-Length: 0\r\n\r\n")),
        ("P123", format!("{ok}{long}Content-Length: 0\r\n\r\n")),
    ] {
        let proxied = answering(answer.as_bytes(), false).await;
        let mut client = Client::sending(&proxied.https, get(&[])).await;
        let got = client.answer().await.unwrap();
        assert_eq!(got.status(), 502, "{number} {answer:.60}");
        assert_eq!(
            got.body, b"502 Bad Gateway\n",
            "{number}: nothing of it crosses"
        );
        // P166: a connection with a malformed answer is not used again.
        client.send(CANARY).await;
        let canary = client.answer().await.unwrap();
        assert_eq!(canary.body, b"/canary", "{number} P166");
        assert_eq!(proxied.upstream.connections().len(), 2, "{number}");
        proxied.upstream.wait(|all| all[0].ended).await;
    }
}

#[tokio::test]
async fn length_of_an_answer_crosses_in_one_form_p115() {
    let twice = b"HTTP/1.1 200 OK\r\nContent-Length: 005\r\nContent-Length: 5\r\n\r\nhello";
    let proxied = answering(twice, false).await;
    let mut client = Client::sending(&proxied.https, get(&[])).await;
    let answer = client.answer().await.unwrap();
    assert_eq!(answer.fields("content-length"), ["5"]);
    assert_eq!(answer.body, b"hello");
}

#[tokio::test]
async fn truncated_answer_does_not_look_complete_p119() {
    for (number, answer) in [
        ("P119", "HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\nhello"),
        (
            "P119",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        ),
        (
            "P119",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
        ),
    ] {
        let proxied = answering(answer.as_bytes(), true).await;
        let mut client = Client::sending(&proxied.https, get(&[])).await;
        let (bytes, end) = client.end().await;
        let text = String::from_utf8(bytes).unwrap();
        assert!(!text.ends_with("0\r\n\r\n"), "{number} {text}");
        assert_eq!(end, End::Abrupt, "{number} {text}");
        // P163: a request whose answer has begun is not sent again.
        assert_eq!(proxied.upstream.requests().len(), 1, "P163");

        let old = request(&["GET / HTTP/1.0", "Host: a"], "");
        let mut client = Client::sending(&proxied.https, old).await;
        assert_eq!(client.end().await.1, End::Abrupt, "P120");

        // Over HTTP/2 a reset is the only sign of a break.
        let begun = proxied.https.start(Version::HTTP_2, https::get(&[])).await;
        assert_eq!(begun.status(), 200, "{number}");
        begun.into_body().collect().await.expect_err(number);
    }
}

#[tokio::test]
async fn answer_that_ends_with_its_connection_crosses_whole_p121() {
    let proxied = answering(b"HTTP/1.1 200 OK\r\n\r\nhello", true).await;
    let mut client = Client::sending(&proxied.https, get(&[])).await;
    let answer = client.answer().await.unwrap();
    assert_eq!(answer.fields("transfer-encoding"), ["chunked"]);
    assert_eq!(answer.body, b"5\r\nhello\r\n0\r\n\r\n");
    client.send(CANARY).await;
    assert_eq!(client.answer().await.unwrap().body, b"/canary");

    let old = request(&["GET / HTTP/1.0", "Host: a"], "");
    let mut client = Client::sending(&proxied.https, old).await;
    let (bytes, end) = client.end().await;
    assert!(bytes.ends_with(b"\r\n\r\nhello"));
    assert_eq!(end, End::Clean);
}

#[tokio::test]
async fn bytes_after_the_declared_length_of_an_answer_are_dropped_p122() {
    let more = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let proxied = answering(more.as_bytes(), false).await;
    let mut client = Client::sending(&proxied.https, get(&[])).await;
    assert_eq!(client.answer().await.unwrap().body, b"hello");
    proxied.upstream.wait(|all| all[0].ended).await;
    client.send(CANARY).await;
    assert_eq!(client.answer().await.unwrap().body, b"/canary");
}

#[tokio::test]
async fn unknown_status_of_the_upstream_crosses_p124() {
    let proxied = answering(b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", false).await;
    let mut client = Client::sending(&proxied.https, get(&[])).await;
    assert_eq!(client.answer().await.unwrap().status(), 999);
}
