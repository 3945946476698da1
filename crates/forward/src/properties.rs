//! Properties of arbitrary requests: one that is forwarded is one request, to the upstream, and claims
//! no other identity.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, uri::Scheme};
use http_body_util::Full;
use hyper::body::Bytes;
use proptest::{prelude::*, sample::select};
use serve::peer::Peer;

use crate::{check::check_request, headers, target};

const PEER: &str = "192.0.2.7:4711";

/// Fields that never cross, or only with a value that is set here.
const GONE: [&str; 13] = [
    "keep-alive",
    "proxy-connection",
    "upgrade",
    "http2-settings",
    "expect",
    "forwarded",
    "x-real-ip",
    "x-spiffe-id",
    "proxy",
    "host",
    "proxy-authorization",
    "proxy-authenticate",
    "true-client-ip",
];

fn name() -> impl Strategy<Value = HeaderName> {
    let telling = [
        &GONE[..],
        &[
            "authorization",
            "connection",
            "te",
            "trailer",
            "content-length",
            "cookie",
            "transfer-encoding",
            "via",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-envoy-x",
            "x_a",
        ],
    ];
    prop_oneof![
        select(telling.concat()).prop_map(HeaderName::from_static),
        "[a-z0-9_-]{1,12}".prop_map(|name| name.parse().unwrap()),
    ]
}

fn value() -> impl Strategy<Value = HeaderValue> {
    let any = prop::collection::vec(any::<u8>(), 0..24);
    prop_oneof![
        any.prop_filter_map("no field value", |bytes| HeaderValue::from_bytes(&bytes)
            .ok()),
        select(vec![
            "close, x-a",
            "chunked",
            "5",
            "a:1",
            "100-continue",
            "trailers",
            "x-a, host, X-Spiffe-Id",
            " ,authorization"
        ])
        .prop_map(HeaderValue::from_static),
    ]
}

fn fields() -> impl Strategy<Value = HeaderMap> {
    let field = (name(), value());
    prop::collection::vec(field, 0..12).prop_map(|fields| {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value);
        }
        headers
    })
}

fn uri() -> impl Strategy<Value = Uri> {
    let free = "[ -~\u{e4}]{0,24}".prop_filter_map("no target", |text| text.parse().ok());
    let telling = "(https|http|ftp)://([a-z]{1,3}@)?[a-z.:0-9]{1,8}([/?][!-~]{0,8})?"
        .prop_filter_map("no target", |text| text.parse().ok());
    let path = "/[!-~]{0,24}".prop_filter_map("no target", |text| text.parse().ok());
    prop_oneof![free, telling, path]
}

fn request() -> impl Strategy<Value = Request<Full<Bytes>>> {
    let methods = select(vec![
        "GET", "HEAD", "POST", "OPTIONS", "CONNECT", "TRACE", "get",
    ]);
    let versions = select(vec![Version::HTTP_10, Version::HTTP_11, Version::HTTP_2]);
    (methods, versions, uri(), fields(), any::<bool>()).prop_map(
        |(method, version, uri, fields, host)| {
            let mut request = Request::new(Full::default());
            *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
            *request.version_mut() = version;
            *request.uri_mut() = uri;
            *request.headers_mut() = fields;
            if host {
                request
                    .headers_mut()
                    .insert("host", HeaderValue::from_static("a"));
            }
            request
        },
    )
}

proptest! {
    #[test]
    fn a_forwarded_request_is_clean_and_goes_to_the_upstream_p021_p085(mut request in request()) {
        let credentials = request.headers().get_all("authorization").iter().count();
        if check_request(&Scheme::HTTPS, &request).is_ok() {
            prop_assert!(credentials <= 1);
            headers::clean_request(
                &mut request,
                &Peer::from(PEER.parse::<SocketAddr>().unwrap()),
                &headers::FieldPolicy::default(),
            );
            let url = target::without_authority(request.uri());
            prop_assert_eq!((url.scheme(), url.authority()), (None, None));
            prop_assert!(!request.headers().contains_key("host"));
            prop_assert!(url.path_and_query().unwrap().as_str().starts_with('/'));

            let fields = request.headers();
            for name in fields.keys().map(HeaderName::as_str) {
                prop_assert!(!GONE.contains(&name) && !name.contains('_'), "{}", name);
                prop_assert!(!name.starts_with("x-envoy-"), "{}", name);
            }
            for (name, own) in [("te", "trailers"), ("connection", "te")] {
                prop_assert!(fields.get(name).is_none_or(|value| value == own), "{}", name);
            }
            let announced = fields.get("trailer").map(|value| value.to_str().unwrap());
            for name in announced.into_iter().flat_map(|names| names.split(", ")) {
                prop_assert!(!GONE.contains(&name) && !fields.contains_key(name) || name == "x-a", "{}", name);
            }
            prop_assert_eq!(&fields["x-forwarded-for"], "192.0.2.7");
            prop_assert_eq!(&fields["x-forwarded-proto"], "https");
            prop_assert_eq!(fields.get_all("authorization").iter().count(), credentials);
            let lengths = fields.get_all("content-length").iter().count()
                + fields.get_all("transfer-encoding").iter().count();
            prop_assert!(lengths <= 1);
            prop_assert_eq!(lines_of(&request, &url), fields.len() + 3, "one request");
        }
    }

    /// Checks that a text that passes for a host has no credentials, no path, and a valid port.
    #[test]
    fn a_host_is_a_host_to_every_reader_p071(text in "([ab]{1,2}(:b)?@)?([ab0-9.-]{0,4}|\\[::1\\])(:[0-9a+]{0,6})?([/?#,@ é%\\\\][ab]?)?") {
        if target::is_host(&text) {
            prop_assert!(!text.contains(['@', '/', '?', '#', ',', ' ', '\\']), "{}", text);
            let (name, port) = match text.rsplit_once(':') {
                Some((name, port)) if !port.contains(']') => (name, port),
                _ => (text.as_str(), ""),
            };
            prop_assert!(!name.is_empty() && (name.starts_with('[') || !name.contains(':')), "{}", text);
            prop_assert!(port.is_empty() || port.parse::<u16>().is_ok(), "{}", text);
            let url: Uri = format!("https://{text}/").parse().unwrap();
            prop_assert_eq!(url.authority().unwrap().as_str(), &text);
        }
    }

    #[test]
    fn names_with_or_without_a_port_are_hosts_p071(name in "[a-z0-9][a-z0-9.-]{0,20}", port in prop::option::of(any::<u16>())) {
        let host = port.map_or_else(|| name.clone(), |port| format!("{name}:{port}"));
        prop_assert!(target::is_host(&host), "{}", host);
    }

    /// Checks that path and query are sent as they were asked for.
    #[test]
    fn a_path_stays_as_it_is_p085(path in "/[!$-;=?-Z_a-z~]{0,24}", whole in any::<bool>()) {
        let asked = if whole { format!("https://evil.example{path}") } else { path.clone() };
        let target = target::without_authority(&asked.parse().unwrap());
        prop_assert_eq!(target.to_string(), path);
    }

    #[test]
    fn answers_lose_hop_by_hop_fields_p010(fields in fields()) {
        let mut response = http::Response::new(());
        *response.headers_mut() = fields;
        headers::clean_response(&mut response, true);
        for name in ["connection", "te"].iter().chain(&GONE[..5]) {
            prop_assert!(!response.headers().contains_key(*name));
        }
    }
}

/// Returns the number of lines of the head on the wire, with the empty line that ends it and the text
/// after that.
fn lines_of<B>(request: &Request<B>, url: &Uri) -> usize {
    let target = url.path_and_query().unwrap();
    let mut head = format!("{} {target} HTTP/1.1\r\n", request.method()).into_bytes();
    for (name, value) in request.headers() {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    let ends = |&byte: &u8| byte == b'\r' || byte == b'\n' || byte == 0;
    head.split(ends).filter(|line| !line.is_empty()).count() + 2
}
