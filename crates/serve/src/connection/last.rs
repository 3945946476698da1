//! The last answer of an HTTP/1.1 connection. HTTP/2 has GOAWAY instead.

use http::{
    HeaderValue, Method, Request, Response,
    header::{CONNECTION, UPGRADE},
};

/// Marks an answer, in its extensions, as the last one of its HTTP/1.1 connection. Handlers set it on a
/// rejection, because the bytes after a malformed request may not be a request.
#[derive(Clone, Copy, Debug)]
pub struct LastAnswer;

/// Returns whether the bytes after this request may be of another protocol, which the caller began before
/// the server agreed (RFC 9931). They are not read.
#[must_use]
pub fn may_change_protocol<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT || request.headers().contains_key(UPGRADE)
}

/// Announces the end of the connection (RFC 9112 §9.6) if the answer `is_last` or is marked by
/// [`LastAnswer`].
pub fn announce<B>(response: &mut Response<B>, is_last: bool) {
    if response.extensions_mut().remove::<LastAnswer>().is_some() || is_last {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
}
