//! Checks independently which fields cross the forwarder and which ones it sets.

use http::{HeaderMap, HeaderName, Request};

use super::wire::Message;

/// The address of the caller, and the authority of the upstream.
pub(super) const PEER_IP: &str = "192.0.2.7";
pub(super) const HOST: &str = "upstream.example:8080";

/// A request to the upstream has none of these fields.
const GONE: [&str; 18] = [
    "client-cert",
    "expect",
    "forwarded",
    "http2-settings",
    "keep-alive",
    "proxy",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "remote-user",
    "true-client-ip",
    "upgrade",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-real-ip",
    "x-remote-user",
    "x-rewrite-url",
    "x-spiffe-id",
];

/// A request to the upstream has no other fields whose names begin with these, except [`SET`].
const GONE_BEGINNINGS: [&str; 8] = [
    "client-cert",
    "ssl-client-",
    "x-client-cert",
    "x-envoy-",
    "x-forwarded",
    "x-original-",
    "x-spiffe-",
    "x-ssl-client-",
];

/// No trailer has one of these names either, which are for the head of a message.
const HEAD_ONLY: [&str; 8] = [
    "cache-control",
    "content-type",
    "if-match",
    "location",
    "max-forwards",
    "set-cookie",
    "transfer-encoding",
    "www-authenticate",
];

/// The proxy sets these fields or changes their values.
const SET: [&str; 12] = [
    "connection",
    "content-length",
    "cookie",
    "host",
    "max-forwards",
    "te",
    "trailer",
    "transfer-encoding",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// These fields stay although `Connection` names them.
const NOT_NOMINABLE: [&str; 6] = [
    "authorization",
    "cache-control",
    "content-length",
    "cookie",
    "host",
    "via",
];

/// Checks that the request that was sent is the one that came, without what must not cross.
pub(super) fn check(sent: &Message, came: &Request<()>) {
    check_target(sent, came);
    check_set(sent, came.headers());
    check_trailers(sent, came.headers());
    for (name, _) in &sent.fields {
        let name = name.as_str();
        if !SET.contains(&name) {
            assert!(!is_gone(name, came.headers()), "{name}: {sent:?}");
            assert_eq!(
                sent.values(name),
                values(came.headers(), name),
                "{name}: {sent:?}"
            );
        }
    }
    for name in came.headers().keys().map(HeaderName::as_str) {
        let stays = !SET.contains(&name) && !is_gone(name, came.headers());
        assert!(
            !stays || !sent.values(name).is_empty(),
            "{name} is lost: {sent:?}"
        );
    }
}

/// Checks the method and target byte for byte, and the authority that the caller asked for.
fn check_target(sent: &Message, came: &Request<()>) {
    let uri = came.uri();
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let slash = if target.starts_with('/') { "" } else { "/" };
    assert_eq!(sent.method, came.method().as_str());
    assert_eq!(sent.target, format!("{slash}{target}"));
    let asked = match uri.authority() {
        Some(authority) => vec![authority.as_str().as_bytes()],
        None => values(came.headers(), "host"),
    };
    assert_eq!(sent.values("x-forwarded-host"), asked, "{sent:?}");
    let is_list_or_user = |host: &&[u8]| host.contains(&b',') || host.contains(&b'@');
    assert!(!asked.iter().any(is_list_or_user), "{sent:?}");
}

/// Checks the fields that the proxy sets, and those that may occur once.
fn check_set(sent: &Message, came: &HeaderMap) {
    for (name, value) in [
        ("host", HOST),
        ("x-forwarded-for", PEER_IP),
        ("x-forwarded-proto", "https"),
    ] {
        assert_eq!(sent.values(name), [value.as_bytes()], "{name}: {sent:?}");
    }
    assert!(sent.values("cookie").len() <= 1, "{sent:?}");
    assert!(sent.values("authorization").len() <= 1, "{sent:?}");
    assert_eq!(sent.values("authorization"), values(came, "authorization"));
    let via = sent.values("via");
    assert_eq!(via.len(), values(came, "via").len() + 1, "{sent:?}");
    let by = via.last().and_then(|hop| hop.get("1.1 ".len()..));
    let own = by.is_some_and(|by| by.starts_with(b"spiffe-jwt-proxy-"));
    assert!(own, "{sent:?}");
}

/// Checks that trailers are announced, and that none could be taken for a field of the head.
fn check_trailers(sent: &Message, came: &HeaderMap) {
    let takes = values(came, "te").join(&b',').to_ascii_lowercase();
    let takes = takes
        .split(|&byte| byte == b',')
        .any(|coding| coding.trim_ascii() == b"trailers");
    let one = |value: &'static str| {
        if takes {
            vec![value.as_bytes()]
        } else {
            vec![]
        }
    };
    assert_eq!(sent.values("te"), one("trailers"), "{sent:?}");
    assert_eq!(sent.values("connection"), one("te"), "{sent:?}");
    let announced = sent.values("trailer").join(&b',');
    let names = announced
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii);
    let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
    for name in &names {
        let name = std::str::from_utf8(name).expect("a name is ASCII");
        let is_of_head = SET.contains(&name)
            || NOT_NOMINABLE.contains(&name)
            || HEAD_ONLY.contains(&name)
            || is_gone(name, came);
        assert!(!is_of_head, "{name}: {sent:?}");
    }
    for (name, _) in &sent.trailers {
        assert!(names.contains(&name.as_bytes()), "{name}: {sent:?}");
    }
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a [u8]> {
    let values = headers.get_all(name).iter();
    values.map(|value| value.as_bytes().trim_ascii()).collect()
}

/// Returns whether a field belongs to the caller's connection, or claims an identity.
fn is_gone(name: &str, came: &HeaderMap) -> bool {
    let connection = values(came, "connection").join(&b',');
    let mut nominated = connection.split(|&byte| byte == b',');
    GONE.contains(&name)
        || GONE_BEGINNINGS
            .iter()
            .any(|beginning| name.starts_with(beginning))
        || name.contains('_')
        || !NOT_NOMINABLE.contains(&name)
            && nominated.any(|member| member.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
}
