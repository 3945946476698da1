use harness::{
    frames::{CANCEL, END_HEADERS, END_STREAM, reset},
    raw::Reply,
};
use http::{Request, Version};
use http_body_util::Full;
use hyper::body::Bytes;

use super::{AUTHORITY, Client, GET, Outcome, PATH, SCHEME};
use crate::Proxied;

#[tokio::test]
async fn http2_bodies_of_another_length_than_declared_are_never_whole_upstream_p095() {
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

    // P29: the same length twice is one length, and two lengths that differ are a fault.
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
    // All that the proxy has sent comes before the ends of its connections.
    proxied.proxy.stop().await;
    let connections = proxied.upstream.wait(|all| all.iter().all(|one| one.ended));
    let connections = connections.await;
    let requests: Vec<_> = connections.iter().flat_map(|one| &one.requests).collect();
    assert_eq!(requests.len(), 1, "P95 is never whole, and P29 comes once");
    assert_eq!(requests[0].fields("content-length"), ["5"], "P29");
}

#[tokio::test]
async fn pseudo_fields_in_trailers_are_dropped_p096() {
    // The proxy collects a short body, and streams a long one.
    let (short, long) = (&b"abc"[..], &[b'a'; 16 * 1024][..]);
    for body in [short, long] {
        let proxied = Proxied::new().await;
        let mut client = Client::new(&proxied.https).await;
        // hyper sends a trailer over HTTP/1.1 only if this field has its name.
        let announced = ("trailer", "x-token, path");
        let head = [(":method", "POST"), SCHEME, AUTHORITY, PATH, announced];
        client.headers(END_HEADERS, &head).await;
        client.data(0, body).await;
        let trailers = [(":path", "/evil"), ("x-token", "1")];
        client.headers(END_HEADERS | END_STREAM, &trailers).await;
        assert_eq!(client.outcome().await, Outcome::Status(200));
        // The next request follows on the same connection, after all bytes of the first one.
        client = Client::new(&proxied.https).await;
        client.headers(END_HEADERS | END_STREAM, &GET).await;
        assert_eq!(client.outcome().await, Outcome::Status(200));
        let connections = proxied.upstream.connections();
        assert_eq!(connections.len(), 1);
        let bytes = String::from_utf8_lossy(&connections[0].bytes);
        assert!(bytes.contains("0\r\nx-token: 1\r\n\r\n"), "{bytes}");
        assert!(!bytes.contains("evil"), "{bytes}");
    }
}

#[tokio::test]
async fn stream_that_is_reset_while_it_waits_cancels_its_request_upstream_p168() {
    let proxied = Proxied::answered(|_| Reply::Silence, &["--response-timeout", "1h"]).await;
    let mut client = Client::new(&proxied.https).await;
    client.headers(END_HEADERS | END_STREAM, &GET).await;
    proxied
        .upstream
        .wait(|all| all.iter().any(|one| one.requests.len() == 1))
        .await;
    client.0.send(&reset(1, CANCEL)).await;
    proxied.upstream.wait(|all| all[0].ended).await;
}

#[tokio::test]
async fn answers_to_head_over_http2_have_a_length_and_no_body_p109() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n";
    let proxied = Proxied::answered(|_| Reply::Bytes(answer.into()), &[]).await;
    let head = Request::head("/").body(Full::<Bytes>::default()).unwrap();
    let answer = proxied.https.send_over(Version::HTTP_2, head).await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b""[..]));
    assert_eq!(answer.headers["content-length"], "17");

    // The proxy's own answers have a body, which a GET receives.
    let head = Request::head("/nowhere").body(Full::<Bytes>::default());
    let answer = proxied.https.send_over(Version::HTTP_2, head.unwrap());
    let answer = answer.await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (404, &b""[..]));
    assert_eq!(answer.headers["content-length"], "14");
}
