//! The opening of a WebSocket towards an upstream (RFC 6455 §4). The module does no I/O.
//!
//! The upstream's connection speaks HTTP/1.1. A caller over HTTP/2 sends no key (RFC 8441 §5), so this hop
//! makes one. In both versions this hop verifies the upstream's answer to the key. An upstream that only
//! seems to switch protocols would take the next bytes for requests.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue, Method, Response, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, TE, TRAILER,
        TRANSFER_ENCODING, UPGRADE,
    },
    request::Parts,
};
use serve::fields::members;

/// The text that a server appends to the key (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// The opening of a WebSocket that an upstream has to accept.
#[derive(Debug)]
pub(super) struct Opening {
    /// The upstream's answer to the key.
    accept: HeaderValue,
    /// The version that the caller speaks.
    version: Version,
}

impl Opening {
    /// Turns a cleaned request, which came over `version`, into one for a WebSocket over HTTP/1.1.
    pub(super) fn of(head: &mut Parts, version: Version) -> Self {
        head.method = Method::GET;
        let headers = &mut head.headers;
        for name in [TRANSFER_ENCODING, CONTENT_LENGTH, TE, TRAILER] {
            headers.remove(name);
        }
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, WEBSOCKET);
        let key = match headers.get(SEC_WEBSOCKET_KEY) {
            Some(key) if version != Version::HTTP_2 => key.clone(),
            _ => text(&STANDARD.encode(fastrand::u128(..).to_be_bytes())),
        };
        let accept = accept(&key);
        headers.insert(SEC_WEBSOCKET_KEY, key);
        Self { accept, version }
    }

    pub(super) fn is_over_http2(&self) -> bool {
        self.version == Version::HTTP_2
    }

    /// Checks that an answer with 101 accepts this WebSocket. Returns the reason if not.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let is = |one: &[u8], other: &[u8]| one.eq_ignore_ascii_case(other);
        let mut accepts = headers.get_all(SEC_WEBSOCKET_ACCEPT).iter();
        if !members(headers, &UPGRADE).all(|protocol| is(protocol, b"websocket"))
            || !headers.contains_key(UPGRADE)
        {
            return Err("it switched to another protocol than WebSocket");
        }
        if !members(headers, &CONNECTION).any(|option| is(option, b"upgrade")) {
            return Err("it switched protocols and did not say so in Connection");
        }
        match (accepts.next(), accepts.next()) {
            (Some(accept), None) if *accept == self.accept => Ok(()),
            _ => Err("its Sec-WebSocket-Accept is not the answer to the key"),
        }
    }

    /// Makes a cleaned answer with 101 fit for the caller.
    pub(super) fn complete<B>(&self, response: &mut Response<B>) {
        let headers = response.headers_mut();
        if self.is_over_http2() {
            headers.remove(SEC_WEBSOCKET_ACCEPT);
            return;
        }
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, WEBSOCKET);
    }
}

/// Returns the answer to a key (RFC 6455 §4.2.2).
fn accept(key: &HeaderValue) -> HeaderValue {
    let text_and_key = [key.as_bytes(), GUID].concat();
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &text_and_key);
    text(&STANDARD.encode(hash))
}

fn text(base64: &str) -> HeaderValue {
    HeaderValue::from_str(base64).expect("base64 is visible ASCII")
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    /// The key and the answer to it in RFC 6455 §1.3.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn opened(version: Version) -> (Opening, HeaderMap) {
        let request = Request::builder()
            .method("CONNECT")
            .header("transfer-encoding", "chunked")
            .header("te", "trailers")
            .header("connection", "te")
            .header("sec-websocket-key", KEY)
            .header("sec-websocket-protocol", "chat");
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        let opening = Opening::of(&mut head, version);
        assert_eq!(head.method, Method::GET);
        (opening, head.headers)
    }

    #[test]
    fn a_request_asks_for_a_websocket_and_nothing_else_p100() {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let (_, headers) = opened(version);
            assert_eq!(headers["connection"], "upgrade");
            assert_eq!(headers["upgrade"], "websocket");
            assert_eq!(headers["sec-websocket-protocol"], "chat");
            assert_eq!(headers.len(), 4, "{headers:?}");
            let is_own = headers["sec-websocket-key"] != KEY;
            assert_eq!(is_own, version == Version::HTTP_2);
            let key = STANDARD.decode(&headers["sec-websocket-key"]).unwrap();
            assert_eq!(key.len(), 16);
        }
    }

    #[test]
    fn only_an_answer_to_the_key_opens_the_websocket_p100() {
        let (opening, _) = opened(Version::HTTP_11);
        let right = [
            ("upgrade", "WebSocket"),
            ("connection", "x, Upgrade"),
            ("sec-websocket-accept", ACCEPT),
        ];
        let check = |fields: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, value.parse().unwrap());
            }
            opening.check(&headers).is_ok()
        };
        assert!(check(&right));
        for without in 0..3 {
            let mut fields = right.to_vec();
            fields.remove(without);
            assert!(!check(&fields), "{fields:?}");
        }
        for more in [("upgrade", "h2c"), ("sec-websocket-accept", ACCEPT)] {
            assert!(!check(&[&right[..], &[more]].concat()), "{more:?}");
        }
        let wrong = [
            right[0],
            right[1],
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOO="),
        ];
        assert!(!check(&wrong));
    }
}
