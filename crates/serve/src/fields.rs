//! Header fields: their size, their lists, and their removal.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Returns the length of all fields as HTTP/1.1 writes them, in bytes. It is the same for both versions.
/// hyper only bounds its buffer, which may grow beyond that.
pub fn bytes(fields: &HeaderMap) -> usize {
    let each = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    fields.iter().map(each).sum()
}

/// Returns the members of a list field, over all its lines (RFC 9110 §5.6.1).
pub fn members<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
}

/// Removes all fields of these names. Most messages have none of them.
pub fn remove(headers: &mut HeaderMap, is_removed: impl Fn(&HeaderName) -> bool) {
    let names = headers.keys().filter(|name| is_removed(name));
    for name in names.cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
}
