//! Header fields as bytes on the wire.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Returns the length of all fields as HTTP/1.1 writes them, whatever version they came over: one
/// number for both. hyper's own bound is that of a buffer that may grow some way over it.
pub fn bytes(fields: &HeaderMap) -> usize {
    let each = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    fields.iter().map(each).sum()
}
