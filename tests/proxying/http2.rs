use harness::{
    PATIENCE,
    frames::{self, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, RST_STREAM, frame},
    https::Https,
    raw::Answer,
};
use http::{Request, Version};
use http_body_util::Full;
use hyper::body::Bytes;

use crate::Proxied;

/// One connection with one stream, number 1.
struct Client(Frames);

/// What became of the stream.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Answered with one of the statuses that HPACK has a number for.
    Status(u16),
    /// Answered with another status.
    OtherStatus,
    /// The stream or the connection was ended.
    Refused,
}

impl Client {
    async fn new(https: &Https) -> Self {
        Self(Frames::connect(https, b"").await)
    }

    async fn headers(&mut self, flags: u8, fields: &[(&str, &str)]) {
        let mut bytes = frames::request(1, b"", fields);
        bytes[4] = flags;
        self.0.send(&bytes).await;
    }

    async fn data(&mut self, flags: u8, data: &[u8]) {
        self.0.send(&frame(DATA, flags, 1, data)).await;
    }

    async fn outcome(&mut self) -> Outcome {
        let outcome = async {
            while let Some(frame) = self.0.next().await {
                match frame.kind {
                    RST_STREAM | GOAWAY => break,
                    HEADERS => return status(&frame.payload),
                    _ => {}
                }
            }
            Outcome::Refused
        };
        let outcome = tokio::time::timeout(PATIENCE, outcome).await;
        outcome.expect("answers in time")
    }
}

/// The status is the first field; the usual ones are one octet (RFC 7541 §6.1 and appendix A).
fn status(block: &[u8]) -> Outcome {
    const STATUSES: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    let block = match block {
        [update, rest @ ..] if update & 0xe0 == 0x20 => rest,
        block => block,
    };
    match block.first() {
        Some(octet @ 0x88..=0x8e) => Outcome::Status(STATUSES[usize::from(octet - 0x88)]),
        _ => Outcome::OtherStatus,
    }
}

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "https");
const AUTHORITY: (&str, &str) = (":authority", "a");
const PATH: (&str, &str) = (":path", "/");
const GET: [(&str, &str); 4] = [METHOD, SCHEME, AUTHORITY, PATH];

async fn sent(proxied: &Proxied, fields: &[(&str, &str)]) -> Outcome {
    let mut client = Client::new(&proxied.https).await;
    client.headers(END_HEADERS | END_STREAM, fields).await;
    client.outcome().await
}

#[tokio::test]
async fn p093_heads_that_http2_does_not_allow() {
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

/// The one octet that names may have here and not over HTTP/1.1.
#[tokio::test]
async fn p051_a_name_with_a_quote() {
    let proxied = Proxied::new().await;
    let fields = [&GET[..], &[("x\"a", "1")]].concat();
    assert_eq!(sent(&proxied, &fields).await, Outcome::Status(400));
    assert!(proxied.upstream.requests().is_empty());
}

#[tokio::test]
async fn p089_authority_and_scheme() {
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
            // P91: a request of HTTP/1.1, whatever the caller spoke.
            let host = format!("localhost:{}", proxied.upstream.port);
            assert_eq!(message.start_line(), "GET / HTTP/1.1", "P91");
            assert_eq!(message.fields("host"), [host.as_str()], "P91");
            assert_eq!(message.fields("x-forwarded-host"), ["a"], "P91");
            assert_eq!(message.fields("x-forwarded-proto"), ["https"], "P92");
        }
    }
}

#[tokio::test]
async fn p077_connect_is_no_tunnel_over_http2_either() {
    let proxied = Proxied::new().await;
    let connect = [(":method", "CONNECT"), (":authority", "a:443")];
    let mut client = Client::new(&proxied.https).await;
    client.headers(END_HEADERS, &connect).await;
    assert_eq!(client.outcome().await, Outcome::OtherStatus);
    let connect = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        SCHEME,
        AUTHORITY,
        PATH,
    ];
    assert_eq!(sent(&proxied, &connect).await, Outcome::Refused);
    assert!(proxied.upstream.connections().is_empty());
}

#[tokio::test]
async fn p017_fields_that_http2_writes_differently() {
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
    assert!(message.fields("te").is_empty(), "P8");
    let via = message.fields("via");
    assert!(via[0].starts_with("2.0 spiffe-jwt-proxy-"), "P18: {via:?}");
}

#[tokio::test]
async fn p095_bodies_of_another_length_than_declared() {
    let proxied = Proxied::new().await;
    let post = [(":method", "POST"), SCHEME, AUTHORITY, PATH];
    let sized = [&post[..], &[("content-length", "5")]].concat();
    for (number, data) in [("P95", "abc"), ("P95", "abcdefgh"), ("P95", "")] {
        let mut client = Client::new(&proxied.https).await;
        if data.is_empty() {
            client.headers(END_HEADERS | END_STREAM, &sized).await;
        } else {
            client.headers(END_HEADERS, &sized).await;
            client.data(END_STREAM, data.as_bytes()).await;
        }
        let outcome = client.outcome().await;
        assert!(
            matches!(outcome, Outcome::Refused | Outcome::Status(400)),
            "{number} {data:?} {outcome:?}"
        );
    }
    proxied
        .upstream
        // One that was opened for a request given up before is kept for the next.
        .wait(|all| all.iter().all(|one| one.ended || one.bytes.is_empty()))
        .await;
    assert!(proxied.upstream.requests().is_empty(), "P95: never whole");

    // P29: the same length twice is one length; two that differ are none.
    for (second, status) in [("5", 200), ("6", 400)] {
        let mut client = Client::new(&proxied.https).await;
        let twice = [&sized[..], &[("content-length", second)]].concat();
        client.headers(END_HEADERS, &twice).await;
        client.data(END_STREAM, b"abcde").await;
        match client.outcome().await {
            Outcome::Refused if status == 400 => {}
            outcome => assert_eq!(outcome, Outcome::Status(status), "P29 {second}"),
        }
    }
    let requests = proxied.upstream.requests();
    assert_eq!(requests.len(), 1, "P29");
    assert_eq!(requests[0].fields("content-length"), ["5"], "P29");
}

#[tokio::test]
async fn p096_trailers_end_here() {
    let proxied = Proxied::new().await;
    for (number, trailer) in [
        ("P62", ("authorization", "Bearer x")),
        ("P96", (":path", "/evil")),
    ] {
        let mut client = Client::new(&proxied.https).await;
        client
            .headers(END_HEADERS, &[(":method", "POST"), SCHEME, AUTHORITY, PATH])
            .await;
        client.data(0, b"abc").await;
        client.headers(END_HEADERS | END_STREAM, &[trailer]).await;
        let outcome = client.outcome().await;
        assert!(
            matches!(outcome, Outcome::Refused | Outcome::Status(200)),
            "{number} {outcome:?}"
        );
        for connection in proxied.upstream.connections() {
            let bytes = String::from_utf8_lossy(&connection.bytes).into_owned();
            assert!(
                !bytes.contains("Bearer x") && !bytes.contains("evil"),
                "{number} {bytes}"
            );
        }
    }
}

#[tokio::test]
async fn p168_a_stream_that_is_reset_while_it_waits() {
    let proxied = Proxied::answered(|_| Answer::Silence, &[]).await;
    let mut client = Client::new(&proxied.https).await;
    client.headers(END_HEADERS | END_STREAM, &GET).await;
    proxied
        .upstream
        .wait(|all| all.iter().any(|one| one.requests.len() == 1))
        .await;
    const CANCEL: [u8; 4] = 8u32.to_be_bytes();
    client.0.send(&frame(RST_STREAM, 0, 1, &CANCEL)).await;
    proxied.upstream.wait(|all| all[0].ended).await;
}

/// Octets that HTTP/1.1 would not let through, and no terminal and no log should see.
#[tokio::test]
async fn p175_log_lines_can_not_be_forged_over_http2() {
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

#[tokio::test]
async fn p109_answers_to_head_have_a_length_and_no_body() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n";
    let proxied = Proxied::answered(|_| Answer::Bytes(answer.into()), &[]).await;
    let head = Request::head("/").body(Full::<Bytes>::default()).unwrap();
    let answer = proxied.https.send_over(Version::HTTP_2, head).await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b""[..]));
    assert_eq!(answer.headers["content-length"], "17");

    // The proxy's own answers have a body, which GET gets.
    let head = Request::head("/nowhere").body(Full::<Bytes>::default());
    let answer = proxied.https.send_over(Version::HTTP_2, head.unwrap());
    let answer = answer.await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (404, &b""[..]));
    assert_eq!(answer.headers["content-length"], "14");
}
