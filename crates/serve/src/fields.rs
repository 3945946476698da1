//! The size of header fields.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Returns the length of all fields as HTTP/1.1 writes them, in bytes. It is the same for both versions.
/// hyper's own bound is that of a buffer, which may grow over it.
pub fn bytes(fields: &HeaderMap) -> usize {
    let each = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    fields.iter().map(each).sum()
}
