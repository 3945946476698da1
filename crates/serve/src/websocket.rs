//! Requests for a WebSocket, over HTTP/1.1 (RFC 6455 §4.1) and HTTP/2 (RFC 8441).
//!
//! A handler finds [`WebSocket`] in the extensions of such a request. It accepts by an answer with 101 in
//! both versions. The bodies of the request and of this answer are then the two directions of the
//! connection. Any other answer is an ordinary one.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderName, Method, Request, Version,
    header::{CONNECTION, SEC_WEBSOCKET_KEY, UPGRADE},
};
use http_body::Body;

use crate::fields::members;

/// Marks a request for a WebSocket, in its extensions.
#[derive(Clone, Copy, Debug)]
pub struct WebSocket;

/// The bytes of a key (RFC 6455 §4.1).
const KEY_BYTES: usize = 16;

/// Returns whether a request over HTTP/1.1 is for a WebSocket, and for no other protocol.
pub(crate) fn is_upgrade<B: Body>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.version() == Version::HTTP_11
        && *request.method() == Method::GET
        && is_list_of(headers, &UPGRADE, b"websocket")
        && members(headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
        && has_key(headers)
        && request.body().is_end_stream()
}

/// Returns whether a request over HTTP/2 is for a WebSocket.
pub(crate) fn is_extended_connect<B>(request: &Request<B>) -> bool {
    let protocol = request.extensions().get::<h2::ext::Protocol>();
    *request.method() == Method::CONNECT
        && protocol.is_some_and(|protocol| protocol.as_str() == "websocket")
}

/// Returns whether there is one key of the right length. The answer to another one could not be verified.
fn has_key(headers: &HeaderMap) -> bool {
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let (key, more) = (keys.next(), keys.next());
    let decoded = key.and_then(|key| STANDARD.decode(key.as_bytes()).ok());
    more.is_none() && decoded.is_some_and(|key| key.len() == KEY_BYTES)
}

/// Returns whether a list field has one member, in any case of letters.
fn is_list_of(headers: &HeaderMap, name: &HeaderName, member: &[u8]) -> bool {
    let mut members = members(headers, name);
    members
        .next()
        .is_some_and(|one| one.eq_ignore_ascii_case(member))
        && members.next().is_none()
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use hyper::body::Bytes;

    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn request(method: &str, fields: &[(&str, &str)], body: &'static str) -> Request<Full<Bytes>> {
        let mut request = Request::builder().method(method);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(Full::from(body)).unwrap()
    }

    #[test]
    fn an_upgrade_is_for_a_websocket_alone_and_has_a_key_p099_p100() {
        let (upgrade, connection, key) = (
            ("upgrade", "WebSocket"),
            ("connection", "x, Upgrade"),
            ("sec-websocket-key", KEY),
        );
        for (method, fields, body, expected) in [
            ("GET", &[upgrade, connection, key][..], "", true),
            ("POST", &[upgrade, connection, key], "", false),
            ("GET", &[upgrade, connection, key], "x", false),
            ("GET", &[upgrade, connection], "", false),
            ("GET", &[upgrade, key], "", false),
            ("GET", &[connection, key], "", false),
            ("GET", &[upgrade, connection, key, key], "", false),
            (
                "GET",
                &[upgrade, connection, ("sec-websocket-key", "x")],
                "",
                false,
            ),
            (
                "GET",
                &[("upgrade", "h2c, websocket"), connection, key],
                "",
                false,
            ),
            (
                "GET",
                &[upgrade, ("upgrade", "h2c"), connection, key],
                "",
                false,
            ),
            ("GET", &[("upgrade", "h2c"), connection, key], "", false),
        ] {
            let request = request(method, fields, body);
            assert_eq!(is_upgrade(&request), expected, "{method} {fields:?} {body}");
        }
        let mut old = request("GET", &[upgrade, connection, key], "");
        *old.version_mut() = Version::HTTP_10;
        assert!(!is_upgrade(&old));
    }
}
