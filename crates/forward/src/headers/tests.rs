use std::net::SocketAddr;

use http::header::VIA;
use http_body_util::{Empty, Full};
use hyper::body::Bytes;

use super::*;

fn peer() -> Peer {
    let address: SocketAddr = "192.0.2.7:4711".parse().unwrap();
    Peer::from(address)
}

fn cleaned(fields: &[(&str, &str)]) -> HeaderMap {
    let mut request = Request::new(Empty::<Bytes>::new());
    for (name, value) in fields {
        request.headers_mut().append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            value.parse().unwrap(),
        );
    }
    clean_request(&mut request, &peer(), &FieldPolicy::default());
    request.into_parts().0.headers
}

#[test]
fn hop_by_hop_fields_are_removed() {
    for (fields, gone) in [
        (&[("connection", "close")] as &[(&str, &str)], "connection"),
        (&[("connection", "x-foo"), ("x-foo", "1")], "x-foo"),
        (
            &[
                ("connection", ""),
                ("connection", "a, X-Foo ,,b"),
                ("x-foo", "1"),
            ],
            "x-foo",
        ),
        (&[("keep-alive", "timeout=5")], "keep-alive"),
        (&[("te", "gzip")], "te"),
        (&[("upgrade", "h2c")], "upgrade"),
        (&[("http2-settings", "x")], "http2-settings"),
        (&[("proxy-authorization", "x")], "proxy-authorization"),
        (&[("transfer-encoding", "chunked")], "transfer-encoding"),
    ] {
        assert!(!cleaned(fields).contains_key(gone), "{gone}");
    }
}

#[test]
fn trailers_are_asked_for_and_announced_as_the_caller_does_p008_p062() {
    for (fields, expected) in [
        (
            &[("te", "trailers")] as &[(&str, &str)],
            [Some("trailers"), Some("te"), None],
        ),
        (
            &[("te", "gzip;q=1, Trailers"), ("connection", "te, x")],
            [Some("trailers"), Some("te"), None],
        ),
        (&[("te", "gzip"), ("connection", "te")], [None; 3]),
        (
            &[("trailer", "X-Sum, authorization")],
            [None, None, Some("x-sum")],
        ),
        (&[("trailer", "x-sum"), ("connection", "x-sum")], [None; 3]),
        (
            &[("trailer", "x-sum"), ("connection", "trailer")],
            [None; 3],
        ),
    ] {
        let headers = cleaned(fields);
        let found = ["te", "connection", "trailer"].map(|name| headers.get(name));
        let found = found.map(|value| value.map(|value| value.to_str().unwrap()));
        assert_eq!(found, expected, "{fields:?}");
    }
}

/// Checks each octet that the library accepts in a name.
#[test]
fn names_that_are_not_tokens_are_refused_p051() {
    for byte in 0..=u8::MAX {
        let is_tchar = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        for name in [
            HeaderName::from_lowercase(&[b'a', byte]),
            HeaderName::from_bytes(&[b'a', byte]),
        ] {
            let Ok(name) = name else { continue };
            let headers = HeaderMap::from_iter([(name, HeaderValue::from_static("1"))]);
            assert_eq!(check_names(&headers).is_ok(), is_tchar, "{byte:#x}");
        }
    }
    let mut request = Request::new(());
    let quoted = HeaderName::from_lowercase(b"a\"b").unwrap();
    request
        .headers_mut()
        .insert(quoted, HeaderValue::from_static("1"));
    assert_eq!(check_request(&request).unwrap_err().status(), 400);
}

#[test]
fn cookies_are_joined_without_empty_ones_p017() {
    for (cookies, joined) in [
        (&["a=1", "b=2"][..], "a=1; b=2"),
        (&["a=1", "", " "], "a=1"),
        (&["", "b=2"], "b=2"),
        (&["", ""], ""),
    ] {
        let fields: Vec<_> = cookies.iter().map(|cookie| ("cookie", *cookie)).collect();
        assert_eq!(cleaned(&fields)["cookie"], joined, "{cookies:?}");
    }
}

#[test]
fn the_credential_stays_though_it_is_nominated() {
    let headers = cleaned(&[
        ("connection", "authorization, via, close"),
        ("authorization", "Bearer a.b.c"),
    ]);
    assert_eq!(headers["authorization"], "Bearer a.b.c");
    assert!(headers.contains_key("via"));
}

#[test]
fn fields_that_name_the_caller_come_from_the_connection() {
    let headers = cleaned(&[
        ("host", "proxy.example"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-client-cert", "forged"),
        ("x_forwarded_for", "10.0.0.1"),
        ("x-spiffe-id", "spiffe://example.org/admin"),
        ("forwarded", "for=10.0.0.1"),
        ("proxy", "http://evil"),
    ]);
    let mut left: Vec<_> = headers
        .iter()
        .filter(|(name, _)| *name != VIA)
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    left.sort_unstable();
    assert_eq!(
        left,
        [
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-host", "proxy.example"),
            ("x-forwarded-proto", "https"),
        ]
    );
}

#[test]
fn the_authority_of_an_absolute_target_replaces_host() {
    let mut request = Request::builder()
        .uri("https://in.uri/")
        .header("host", "in.header")
        .body(Empty::<Bytes>::new())
        .unwrap();
    clean_request(&mut request, &peer(), &FieldPolicy::default());
    assert_eq!(request.headers()["x-forwarded-host"], "in.uri");
}

#[test]
fn a_get_keeps_its_chunked_body() {
    let mut request = Request::new(Full::<Bytes>::from("abc"));
    clean_request(&mut request, &peer(), &FieldPolicy::default());
    assert_eq!(request.headers()["transfer-encoding"], "chunked");
}

#[test]
fn responses_lose_hop_by_hop_fields_and_keep_the_rest_in_order() {
    let mut response = Response::builder()
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("set-cookie", "a=1")
        .header("set-cookie", "b=2")
        .body(())
        .unwrap();
    clean_response(&mut response, false);
    assert!(!response.headers().contains_key("x-hop"));
    let cookies: Vec<_> = response.headers().get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
}
