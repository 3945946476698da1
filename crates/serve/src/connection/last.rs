//! The last answer of an HTTP/1.1 connection. HTTP/2 has GOAWAY.

use http::{
    HeaderValue, Method, Request, Response,
    header::{CONNECTION, UPGRADE},
};

/// Marks an answer, in its extensions, as the last one of its HTTP/1.1 connection. Handlers set it
/// after a request that was not understood, because what follows may not be a request.
#[derive(Clone, Copy, Debug)]
pub struct LastAnswer;

/// Returns whether bytes after this request may be of another protocol, which the caller began before
/// it was agreed to (RFC 9931). They are not read.
#[must_use]
pub fn may_change_protocol<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT || request.headers().contains_key(UPGRADE)
}

/// Announces the end of the connection (RFC 9112 §9.6) in an answer that `is_last` or is marked so.
pub fn announce<B>(response: &mut Response<B>, is_last: bool) {
    if response.extensions_mut().remove::<LastAnswer>().is_some() || is_last {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
}
