use std::time::Duration;

use harness::{Stack, https::get, upstream};
use http::{Request, Version};
use http_body_util::Full;
use serve::body;
use tokio::{
    io::AsyncWriteExt,
    time::{sleep, timeout},
};

use crate::{ask, read_to_end, server};

fn head(target: &str, fields: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n").into()
}

#[tokio::test]
async fn http1_heads_over_their_bounds_are_rejected_p128() {
    let (_stack, _server, https) = server(&[]).await;
    let fields = |count: usize| -> String { (0..count).map(|n| format!("x-{n}: 1\r\n")).collect() };
    let long = |bytes: usize| format!("x-long: {}\r\n", "a".repeat(bytes));
    let path = |bytes: usize| format!("/{}", "a".repeat(bytes - 1));
    for (number, head, status) in [
        ("P128", head("/", &fields(98)), "401"),
        ("P128", head("/", &fields(99)), "431"),
        ("P128", head("/", &fields(150)), "431"),
        ("P130", head("/", &long(16 * 1024)), "401"),
        ("P130", head("/", &long(33 * 1024)), "431"),
        ("P130", head("/", &long(500_000)), "431"),
        ("P132", head(&path(8 * 1024), ""), "401"),
        ("P132", head(&path(8 * 1024 + 1), ""), "414"),
        ("P132", head(&path(31 * 1024), ""), "414"),
        // The target exceeds the bound of the whole head, so that hyper cannot tell it from the
        // fields.
        ("P132", head(&path(65_535), ""), "431"),
    ] {
        let answer = ask(&https, &head).await;
        let expected = format!("HTTP/1.1 {status} ");
        let length = head.len();
        assert!(answer.starts_with(&expected), "{number} {length}: {answer}");
    }
}

#[tokio::test]
async fn http2_heads_over_their_bounds_are_rejected_p129() {
    let (_stack, _server, https) = server(&[]).await;
    let with = |path: String, count: usize, bytes: usize| {
        let request = (0..count).fold(Request::get(path), |request, n| {
            request.header(format!("x-{n}"), "a".repeat(bytes))
        });
        request.body(Full::default()).unwrap()
    };
    let path = |bytes: usize| format!("/{}", "a".repeat(bytes - 1));
    for (number, request, status) in [
        ("P129", with("/".into(), 100, 1), 401),
        ("P129", with("/".into(), 101, 1), 431),
        ("P129", with("/".into(), 150, 1), 431),
        ("P131", with("/".into(), 1, 16 * 1024), 401),
        ("P131", with("/".into(), 1, 33 * 1024), 431),
        ("P131", with("/".into(), 50, 1024), 431),
        ("P132", with(path(8 * 1024 - 100), 0, 0), 401),
        ("P132", with(path(9 * 1024), 0, 0), 414),
    ] {
        let answer = https.send_over(Version::HTTP_2, request).await;
        assert_eq!(answer.status, status, "{number}");
    }
}

#[tokio::test]
async fn proxy_forwards_no_head_over_the_bounds_p129() {
    let stack = Stack::new().await;
    let never = upstream::answering(&stack, &["h2"], async |_| {
        body::status(http::StatusCode::IM_A_TEAPOT)
    })
    .await;
    let proxy = stack.proxy(never, &[]).await;
    let https = stack.https(proxy.listening().await);
    let fields: String = (0..150).map(|n| format!("x-{n}: 1\r\n")).collect();
    for (fields, expected) in [("", "HTTP/1.1 418 "), (&fields, "HTTP/1.1 431 ")] {
        let answer = ask(&https, &head("/", fields)).await;
        assert!(answer.starts_with(expected), "{answer}");
    }
}

#[tokio::test]
async fn head_that_comes_slowly_or_never_is_cut_off_p135() {
    let (_stack, server, https) = server(&["--header-timeout", "2s"]).await;
    // "P137": the version is chosen by ALPN, so that a preface is not HTTP/2 over HTTP/1.1.
    let bad = &["HTTP/1.1 400 Bad Request"] as &[&str];
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let half = b"GET / HTTP/1.1\r\nHost: a";
    let cases = [
        ("P135", b"http/1.1" as &[u8], half as &[u8], &[] as &[&str]),
        ("P136", b"http/1.1", b"", &[]),
        ("P136", b"h2", b"", &[]),
        ("P137", b"http/1.1", b"P", &[]),
        ("P137", b"http/1.1", b"PRI * HTTP/2.0\r\n", bad),
        ("P137", b"h2", b"P", &[]),
        ("P137", b"h2", b"PRI * HTTP/2.0\r\n", &[]),
        ("P137", b"h2", preface, &[]),
    ];
    let mut begun = Vec::new();
    for (_, alpn, bytes, _) in cases {
        let mut tls = https.connect(alpn).await;
        tls.write_all(bytes).await.unwrap();
        tls.flush().await.unwrap();
        begun.push(tls);
        let other = https.send(get(&[])).await.status;
        assert_eq!(other, 401, "others are served");
    }
    for ((number, alpn, bytes, expected), mut tls) in cases.into_iter().zip(begun) {
        let answer = read_to_end(&mut tls).await;
        let answers = answer.lines().filter(|line| line.starts_with("HTTP/"));
        assert_eq!(
            answers.collect::<Vec<_>>(),
            expected,
            "{number} {alpn:?} {bytes:?}: {answer}"
        );
    }
    drop(server);
}

#[tokio::test]
async fn head_that_trickles_gets_no_more_time_p135() {
    let (_stack, _server, https) = server(&["--header-timeout", "500ms"]).await;
    let (mut read, mut write) = tokio::io::split(https.connect(b"http/1.1").await);
    let trickling = async {
        for byte in b"GET / HTTP/1.1\r\nX: "
            .iter()
            .chain(std::iter::repeat(&b'a'))
        {
            if write.write_all(&[*byte]).await.is_err() || write.flush().await.is_err() {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let closed = async { tokio::io::AsyncReadExt::read(&mut read, &mut [0]).await };
    let cut_off = async {
        tokio::select! {
            () = trickling => {}
            _ = closed => {}
        }
    };
    timeout(Duration::from_secs(5), cut_off)
        .await
        .expect("is cut off although bytes come");
}
