use std::convert::Infallible;

use harness::{
    https,
    proxy_stack::ProxyStack,
    raw::{Client, Reply},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version, header::TRAILER};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body, Bytes, Frame, Incoming};
use serve::body;

use crate::{Proxied, get, post};

/// The versions of the caller, and the protocols of the upstream.
const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];
const PROTOCOLS: [&str; 2] = ["http/1.1", "h2"];

/// A trailer that crosses, and those that no library drops by itself and the proxy does.
const SUM: (&str, &str) = ("x-sum", "7");
const FORBIDDEN: [(&str, &str); 4] = [
    ("cookie", "a=1"),
    ("x-forwarded-for", "10.0.0.1"),
    ("x-spiffe-id", "spiffe://example.org/admin"),
    ("if-match", "1"),
];

fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let field = |(name, value): &(&'static str, &'static str)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    };
    fields.iter().map(field).collect()
}

/// Returns the value of `Trailer` that announces these fields.
fn announcing(trailers: &HeaderMap) -> String {
    let names: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
    names.join(", ")
}

/// Returns a body of `data` and these trailers.
fn with(
    data: Bytes,
    trailers: HeaderMap,
) -> impl Body<Data = Bytes, Error = Infallible> + Send + Unpin {
    let frames = [Frame::data(data), Frame::trailers(trailers)];
    StreamBody::new(futures_util::stream::iter(frames.map(Ok)))
}

/// Answers with the trailers of the request, and whether one of them is among its header fields.
async fn tell(request: Request<Incoming>) -> Response<body::Body> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    let is_merged = ["x-sum", "cookie", "if-match"]
        .iter()
        .any(|name| head.headers.contains_key(*name));
    let length = body.to_bytes().len();
    body::text(
        http::StatusCode::OK,
        format!("{trailers:?} {is_merged} {length}"),
    )
}

#[tokio::test]
async fn trailers_of_a_request_cross_without_forbidden_fields_p062() {
    let trailers = fields(&[&[SUM][..], &FORBIDDEN].concat());
    for protocol in PROTOCOLS {
        let stack = ProxyStack::answering(&[protocol], &[], tell).await;
        for version in VERSIONS {
            // The proxy reads a short body before it sends the head, and streams a long one.
            for length in [3, 64 * 1024] {
                let body = with(vec![b'a'; length].into(), trailers.clone());
                let request = Request::post("/").header(TRAILER, announcing(&trailers));
                let request = request.body(body).unwrap();
                let answer = stack.https.send_over(version, request).await;
                let expected = format!(r#"{{"x-sum": "7"}} false {length}"#);
                assert_eq!(answer.body, expected, "{version:?} to {protocol}");
            }
        }
    }
}

#[tokio::test]
async fn trailers_of_a_short_body_cross_unannounced_p062() {
    for protocol in PROTOCOLS {
        let stack = ProxyStack::answering(&[protocol], &[], tell).await;
        let body = with("abc".into(), fields(&[SUM]));
        let answer = stack
            .https
            .send_over(Version::HTTP_2, Request::post("/").body(body).unwrap());
        assert_eq!(answer.await.body, r#"{"x-sum": "7"} false 3"#, "{protocol}");
    }
}

/// HTTP/2 is used on both sides, because it has no coding that could lose trailers.
#[tokio::test]
async fn credential_in_a_trailer_goes_nowhere_p062() {
    let stack = ProxyStack::answering(&["h2"], &[], tell).await;
    let body = with("abc".into(), fields(&[("authorization", "Bearer a.b.c")]));
    let request = Request::post("/").body(body).unwrap();
    let answer = stack.https.send_over(Version::HTTP_2, request).await;
    assert_eq!(answer.body, "{} false 3");
}

#[tokio::test]
async fn trailers_of_an_http1_request_are_written_after_its_last_chunk_p062() {
    let proxied = Proxied::new().await;
    let outcome = proxied
        .probe(post(
            &["Transfer-Encoding: chunked", "Trailer: X-T, Host", "TE: trailers"],
            "1\r\nx\r\n0\r\nX-T: 1\r\nAuthorization: Bearer x\r\nContent-Length: 9\r\nHost: b\r\nCookie: c\r\n\r\n",
        ))
        .await;
    assert_eq!((outcome.status, outcome.continues), (200, true));
    let forwarded = &outcome.forwarded[0];
    assert_eq!(
        String::from_utf8_lossy(&forwarded.body),
        "1\r\nx\r\n0\r\nx-t: 1\r\n\r\n"
    );
    assert_eq!(forwarded.fields("trailer"), ["x-t"]);
    assert!(forwarded.fields("content-length").is_empty());
    assert_eq!(forwarded.fields("te"), ["trailers"], "P8");
    assert_eq!(forwarded.fields("connection"), ["te"], "P8");
    assert!(forwarded.fields("cookie").is_empty() && forwarded.fields("x-t").is_empty());
}

#[tokio::test]
async fn trailers_of_an_answer_cross_to_callers_that_take_them_p126() {
    let trailers = fields(&[&[SUM][..], &FORBIDDEN, &[("set-cookie", "a=1")]].concat());
    for protocol in PROTOCOLS {
        let trailers = trailers.clone();
        let stack = ProxyStack::answering(&[protocol], &[], move |request| {
            let (trailers, te) = (trailers.clone(), request.headers().get("te").cloned());
            async move {
                let mut response =
                    Response::new(body::Body::streamed(with("hello".into(), trailers.clone())));
                response
                    .headers_mut()
                    .insert(TRAILER, announcing(&trailers).parse().unwrap());
                response
                    .headers_mut()
                    .extend(te.map(|te| (HeaderName::from_static("x-te"), te)));
                response
            }
        })
        .await;
        for (version, te, crosses) in [
            (Version::HTTP_2, Some("trailers"), true),
            // HTTP/2 has room for trailers. An upstream over HTTP/1.1 sends none that it is not asked for.
            (Version::HTTP_2, None, protocol == "h2"),
            (Version::HTTP_11, Some("trailers"), true),
            (Version::HTTP_11, Some("gzip"), false),
            (Version::HTTP_11, None, false),
        ] {
            let te: Vec<_> = te.map(|te| ("te", te)).into_iter().collect();
            let answer = stack.https.start(version, https::get(&te)).await;
            let case = format!("{version:?} {te:?} to {protocol}");
            let asked = (te == [("te", "trailers")]).then_some("trailers");
            let sent = answer.headers().get("x-te").map(|te| te.to_str().unwrap());
            assert_eq!(sent, asked, "P8 {case}");
            assert!(
                !answer.headers().contains_key("x-sum")
                    && !answer.headers().contains_key("set-cookie")
            );
            let body = answer.into_body().collect().await.unwrap();
            let expected = crosses.then(|| fields(&[SUM]));
            assert_eq!(body.trailers(), expected.as_ref(), "{case}");
            assert_eq!(body.to_bytes(), "hello", "{case}");
        }
    }
}

#[tokio::test]
async fn trailers_of_an_answer_are_dropped_for_a_caller_that_does_not_take_them_p126() {
    let answer = "HTTP/1.1 200 OK\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\nSet-Cookie: a=1\r\n\r\n";
    let proxied = Proxied::answered(move |_| Reply::Bytes(answer.into()), &[]).await;
    for (te, body, announced) in [
        (&[][..], "5\r\nhello\r\n0\r\n\r\n", &[][..]),
        (
            &["TE: trailers", "Connection: TE"],
            "5\r\nhello\r\n0\r\nx-t: 1\r\n\r\n",
            &["x-t"],
        ),
    ] {
        let mut client = Client::sending(&proxied.https, get(te)).await;
        let answer = client.answer().await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer.body), body);
        assert_eq!(answer.fields("trailer"), announced);
        assert!(answer.fields("set-cookie").is_empty() && answer.fields("x-t").is_empty());
    }
}

#[tokio::test]
async fn answer_with_trailers_that_are_too_long_is_broken_off_p063() {
    let long = HeaderValue::try_from("a".repeat(70 * 1024)).unwrap();
    let stack = ProxyStack::answering(&["h2"], &[], move |_| {
        let trailers = HeaderMap::from_iter([(HeaderName::from_static("x-sum"), long.clone())]);
        async { Response::new(body::Body::streamed(with("hello".into(), trailers))) }
    })
    .await;
    let mut client = Client::sending(&stack.https, get(&["TE: trailers"])).await;
    assert_eq!(client.answer().await, None, "it has no last chunk");
}
