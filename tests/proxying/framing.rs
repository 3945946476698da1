use harness::raw::{Client, End};

use crate::{Proxied, get, post, request};

/// The required outcome of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// The request is rejected and not forwarded, and nothing after it is read.
    Refused(u16),
    /// The request is forwarded once, with this body (framing included), and the connection is
    /// kept.
    Forwarded(&'static str),
    /// The request is forwarded once with this body, and nothing after it is read.
    Last(&'static str),
}
use Fate::{Forwarded, Last, Refused};

async fn check(rows: &[(&str, String, Fate)]) {
    let proxied = Proxied::new().await;
    for (number, bytes, fate) in rows {
        let outcome = proxied.probe(bytes).await;
        let (body, continues) = match *fate {
            Refused(status) => {
                assert_eq!(outcome.status, status, "{number} {bytes:?}");
                (None, false)
            }
            Forwarded(body) => (Some(body), true),
            Last(body) => (Some(body), false),
        };
        assert_eq!(
            outcome.continues, continues,
            "{number} {bytes:?} {outcome:?}"
        );
        let bodies: Vec<_> = outcome
            .forwarded
            .iter()
            .map(|message| String::from_utf8_lossy(&message.body))
            .collect();
        assert_eq!(bodies, Vec::from_iter(body), "{number} {bytes:?}");
        for message in &outcome.forwarded {
            let lengths = message.fields("content-length").len();
            let codings = message.fields("transfer-encoding").len();
            assert!(lengths + codings <= 1, "{number} {message:?}");
        }
    }
}

#[tokio::test]
async fn two_lengths_that_differ_are_rejected_p025() {
    let (cl, te) = ("Content-Length: 6", "Transfer-Encoding: chunked");
    // hyper has removed Content-Length before our code sees it, and closes (RFC 9112 §6.3).
    check(&[
        ("P25", post(&[cl, te], "0\r\n\r\n"), Last("")),
        ("P26", post(&[te, cl], "0\r\n\r\n"), Last("")),
        (
            "P27",
            post(&[te, "Content-Length: abc"], "0\r\n\r\n"),
            Last(""),
        ),
        (
            "P27",
            post(&["Content-Length: abc", te], "0\r\n\r\n"),
            Refused(400),
        ),
        (
            "P28",
            post(&["Content-Length: 2", "Content-Length: 3"], "ab"),
            Refused(400),
        ),
        (
            "P29",
            post(&["Content-Length: 2", "Content-Length: 2"], "ab"),
            Forwarded("ab"),
        ),
        ("P30", post(&["Content-Length: 2, 2"], "ab"), Refused(400)),
        ("P31", post(&["Content-Length: +2"], "ab"), Refused(400)),
        ("P31", post(&["Content-Length: -1"], "ab"), Refused(400)),
        ("P31", post(&["Content-Length: 0x2"], "ab"), Refused(400)),
        ("P31", post(&["Content-Length:"], ""), Refused(400)),
        (
            "P31",
            post(&["Content-Length: 18446744073709551616"], ""),
            Refused(400),
        ),
        (
            "P33",
            post(&["Content-Length: 18446744073709551615"], ""),
            Refused(431),
        ),
        ("P34", post(&["Content-Length : 2"], "ab"), Refused(400)),
        (
            "P34",
            post(&["Transfer-Encoding : chunked"], "0\r\n\r\n"),
            Refused(400),
        ),
    ])
    .await;
}

#[tokio::test]
async fn length_is_forwarded_in_one_form_p032() {
    let proxied = Proxied::new().await;
    for lengths in [
        &["Content-Length: 00002"][..],
        &["Content-Length: 2", "Content-Length: 02"],
    ] {
        let outcome = proxied.probe(post(lengths, "ab")).await;
        assert_eq!(outcome.forwarded[0].fields("content-length"), ["2"]);
        assert_eq!(outcome.forwarded[0].body, b"ab");
        assert!(outcome.continues);
    }
}

#[tokio::test]
async fn transfer_codings_other_than_chunked_are_rejected_p035() {
    let end = "0\r\n\r\n";
    let coded = |value: &str| post(&[&format!("Transfer-Encoding: {value}")], end);
    check(&[
        ("P35", coded("xchunked"), Refused(400)),
        ("P35", coded("chunked, gzip"), Refused(400)),
        ("P35", coded("chunked;q=1"), Refused(400)),
        ("P35", coded("chunked,"), Refused(400)),
        ("P35", coded(""), Refused(400)),
        ("P36", coded("gzip, chunked"), Refused(501)),
        ("P36", coded("identity, chunked"), Refused(501)),
        (
            "P36",
            post(
                &["Transfer-Encoding: xx", "Transfer-Encoding: chunked"],
                end,
            ),
            Refused(501),
        ),
        ("P37", coded("chunked, chunked"), Refused(400)),
        (
            "P37",
            post(
                &["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
                end,
            ),
            Refused(400),
        ),
        ("P38", coded(",chunked"), Refused(400)),
        ("P39", coded("CHUNKED"), Forwarded("")),
        ("P40", coded("\u{b}chunked"), Refused(400)),
        ("P40", coded("chunked\u{c}"), Refused(400)),
        (
            "P41",
            request(
                &["POST / HTTP/1.0", "Host: a", "Transfer-Encoding: chunked"],
                end,
            ),
            Refused(400),
        ),
    ])
    .await;
}

#[tokio::test]
async fn bodies_of_get_delete_and_options_are_forwarded_p042() {
    let chunked = |method: &str| {
        let line = format!("{method} / HTTP/1.1");
        request(
            &[&line, "Host: a", "Transfer-Encoding: chunked"],
            "3\r\nabc\r\n0\r\n\r\n",
        )
    };
    check(&[
        ("P42", chunked("OPTIONS"), Forwarded("abc")),
        ("P43", chunked("GET"), Forwarded("abc")),
        ("P43", chunked("DELETE"), Forwarded("abc")),
        (
            "P44",
            format!("{}abc", get(&["Content-Length: 3"])),
            Forwarded("abc"),
        ),
    ])
    .await;
    let proxied = Proxied::new().await;
    let mut client = Client::sending(&proxied.https, chunked("HEAD")).await;
    assert_eq!(client.answer_to("HEAD").await.unwrap().status(), 200, "P43");
    assert_eq!(proxied.upstream.requests()[0].body, b"abc", "P43");
}

#[tokio::test]
async fn request_hidden_in_a_body_is_never_answered_p045() {
    let proxied = Proxied::new().await;
    let hidden = "GET /canary HTTP/1.1\r\nHost: a\r\nX-Hidden: 1\r\n\r\n";
    let length = format!("Content-Length: {}", hidden.len());
    let unknown_path = request(&["POST /nowhere HTTP/1.1", "Host: a", &length], hidden);
    let mut client = Client::sending(&proxied.https, unknown_path).await;
    assert_eq!(client.answer().await.unwrap().status(), 404);
    client.send(crate::CANARY).await;
    // The body was drained and the canary answered, or the connection was closed.
    let answered = client.answer().await.is_some();
    let requests = proxied.upstream.requests();
    assert_eq!(requests.len(), usize::from(answered));
    assert!(
        requests
            .iter()
            .all(|message| message.fields("x-hidden").is_empty())
    );
}

#[tokio::test]
async fn malformed_heads_are_rejected_p047() {
    check(&[
        ("P47", get(&["X-A: 1", " folded"]), Refused(400)),
        (
            "P47",
            post(&["Transfer-Encoding:", " chunked"], "0\r\n\r\n"),
            Refused(400),
        ),
        (
            "P48",
            request(&["GET / HTTP/1.1", " Host: a"], ""),
            Refused(400),
        ),
        ("P50", get(&["X-A: 1\r2"]), Refused(400)),
        ("P51", get(&["no colon"]), Refused(400)),
        ("P51", get(&[": empty name"]), Refused(400)),
        ("P51", get(&["a name: 1"]), Refused(400)),
    ])
    .await;
    let proxied = Proxied::new().await;
    // P49: line ends of the caller are not forwarded.
    let outcome = proxied.probe("GET / HTTP/1.1\nHost: a\nX-A: 1\n\n").await;
    assert_eq!((outcome.status, outcome.continues), (200, true));
    let bytes = proxied.upstream.connections()[0].bytes.clone();
    let bare = bytes
        .windows(2)
        .filter(|two| two[1] == b'\n' && two[0] != b'\r')
        .count();
    assert_eq!(bare, 0, "P49");
    // P68: empty lines before a request are not a request.
    let outcome = proxied
        .probe("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert_eq!(
        (outcome.status, outcome.forwarded.len(), outcome.continues),
        (200, 1, true),
        "P68"
    );
}

#[tokio::test]
async fn well_formed_chunks_are_forwarded_p052() {
    let chunked = |body: &str| post(&["Transfer-Encoding: chunked"], body);
    let zeros = format!("{}1\r\nx\r\n0\r\n\r\n", "0".repeat(5000));
    check(&[
        ("P52", chunked("1;a=b\r\nx\r\n0\r\n\r\n"), Forwarded("x")),
        ("P56", chunked("1 \r\nx\r\n0\r\n\r\n"), Forwarded("x")),
        ("P59", chunked(&zeros), Forwarded("x")),
        (
            "P62",
            chunked("1\r\nx\r\n0\r\nX-T: 1\r\nAuthorization: Bearer x\r\nContent-Length: 9\r\nHost: b\r\nCookie: c\r\n\r\n"),
            Forwarded("1\r\nx\r\n0\r\nx-t: 1\r\n\r\n"),
        ),
    ])
    .await;
}

#[tokio::test]
async fn malformed_chunks_are_rejected_p053() {
    let proxied = Proxied::new().await;
    let (long, many) = ("x".repeat(20_000), "A: 1\r\n".repeat(200));
    let extensions = format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(17 * 1024));
    let (long, many) = (
        format!("0\r\nA: {long}\r\n\r\n"),
        format!("0\r\n{many}\r\n"),
    );
    for (number, body) in [
        ("P53", "1;a\nx\r\n0\r\n\r\n"),
        ("P53", "1;a\rb\r\nx\r\n0\r\n\r\n"),
        ("P54", "1\nx\r\n0\r\n\r\n"),
        ("P55", "0x1\r\nx\r\n0\r\n\r\n"),
        ("P55", "+1\r\nx\r\n0\r\n\r\n"),
        ("P55", "-1\r\nx\r\n0\r\n\r\n"),
        ("P55", " 1\r\nx\r\n0\r\n\r\n"),
        ("P55", "\r\nx\r\n0\r\n\r\n"),
        ("P55", "1_0\r\nx\r\n0\r\n\r\n"),
        ("P57", "10000000000000001\r\nx\r\n0\r\n\r\n"),
        ("P60", &extensions),
        ("P61", "1\r\nxy\r\n0\r\n\r\n"),
        ("P61", "1\r\nx0\r\n\r\n"),
        ("P63", "0\r\nA: 1\r\n folded\r\n\r\n"),
        ("P63", "0\r\nA: 1\nB: 2\r\n\r\n"),
        ("P63", &long),
        ("P63", &many),
    ] {
        let outcome = proxied
            .probe(post(&["Transfer-Encoding: chunked"], body))
            .await;
        assert!(
            matches!(outcome.status, 0 | 400),
            "{number} {body:.40}: {outcome:?}"
        );
        assert!(!outcome.continues, "{number} {body:.40}");
        assert!(
            outcome.forwarded.is_empty(),
            "{number} {body:.40}: {outcome:?}"
        );
    }
    // P64: the request that had begun was broken off, and its connection is not pooled.
    let connections = proxied
        .upstream
        // A connection that was opened for a request that was given up is kept for the next.
        .wait(|all| all.iter().all(|one| one.ended || one.bytes.is_empty()))
        .await;
    assert!(connections.iter().all(|one| one.requests.is_empty()));
}

#[tokio::test]
async fn body_that_breaks_off_breaks_off_at_the_upstream_p064() {
    let proxied = Proxied::new().await;
    let begun = post(&["Transfer-Encoding: chunked"], "3\r\nabc\r\n");
    let mut client = Client::sending(&proxied.https, begun).await;
    proxied
        .upstream
        .wait(|all| all.iter().any(|one| one.bytes.ends_with(b"abc\r\n")))
        .await;
    client.send("zz\r\n").await;
    assert_eq!(
        client.answer().await.map(|answer| answer.status()),
        Some(400)
    );
    assert_eq!(client.answer().await, None);
    let connections = proxied.upstream.wait(|all| all[0].ended).await;
    assert!(connections[0].requests.is_empty(), "it is never whole");
}

#[tokio::test]
async fn client_that_leaves_within_a_body_breaks_it_off_at_the_upstream_p065() {
    let proxied = Proxied::new().await;
    let client = Client::sending(&proxied.https, post(&["Content-Length: 10000"], "abc")).await;
    proxied
        .upstream
        .wait(|all| all.iter().any(|one| one.bytes.ends_with(b"abc")))
        .await;
    drop(client);
    let connections = proxied.upstream.wait(|all| all[0].ended).await;
    assert!(connections[0].requests.is_empty(), "it is never whole");
}

#[tokio::test]
async fn chunk_of_any_declared_size_is_streamed_without_room_kept_for_it_p058() {
    let proxied = Proxied::new().await;
    let before = proxied.proxy.peak_memory();
    let begun = post(&["Transfer-Encoding: chunked"], "fffffffffffffff\r\nabc");
    let client = Client::sending(&proxied.https, begun).await;
    proxied
        .upstream
        .wait(|all| all.iter().any(|one| one.bytes.ends_with(b"abc\r\n")))
        .await;
    drop(client);
    proxied.upstream.wait(|all| all[0].ended).await;
    assert!(proxied.proxy.peak_memory_above(before) < 8 * 1024);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_p066() {
    let proxied = Proxied::new().await;
    let ten: String = (0..10)
        .map(|n| request(&[&format!("GET /?{n} HTTP/1.1"), "Host: a"], ""))
        .collect();
    let mut client = Client::sending(&proxied.https, ten).await;
    for n in 0..10 {
        let answer = client.answer().await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer.body), format!("/?{n}"));
    }
    assert_eq!(
        proxied.upstream.connections().len(),
        1,
        "one after the other"
    );

    // P1, P67: nothing is read after the last request.
    let outcome = proxied.probe(get(&["Connection: close"])).await;
    assert_eq!((outcome.status, outcome.continues), (200, false), "P67");
    assert!(outcome.forwarded[0].fields("connection").is_empty(), "P1");
    let mut client = Client::sending(&proxied.https, get(&["Connection: close"])).await;
    client.answer().await.unwrap();
    assert_eq!(client.end().await, (Vec::new(), End::Clean));
}
