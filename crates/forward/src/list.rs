//! List fields (RFC 9110 §5.6.1). No I/O.

use http::{HeaderMap, HeaderName};

/// Returns the members of a list field, over all its lines.
pub(super) fn members<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
}
