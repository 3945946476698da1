//! The trace that a request belongs to (W3C Trace Context, `traceparent`).

use std::fmt;

use http::{HeaderMap, HeaderValue};

/// The ID of a trace: 32 digits in hexadecimal.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct TraceId(HeaderValue);

/// The lengths of the four parts of a `traceparent`, and its length with the hyphens between them.
const PARTS: [usize; 4] = [2, 32, 16, 2];
const LENGTH: usize = 55;

impl TraceId {
    /// Returns the ID in a valid `traceparent`, if there is exactly one such field.
    pub(crate) fn in_fields(headers: &HeaderMap) -> Option<Self> {
        let mut fields = headers.get_all("traceparent").iter();
        let field = fields.next().filter(|_| fields.next().is_none())?;
        is_valid(field.as_bytes()).then(|| Self(field.clone()))
    }

    fn as_str(&self) -> &str {
        let text = self.0.to_str().unwrap_or_default();
        text.get(3..35).unwrap_or_default()
    }
}

/// Returns whether a `traceparent` is valid. A later version than 00 may have more after its flags.
fn is_valid(field: &[u8]) -> bool {
    let Some((known, more)) = field.split_at_checked(LENGTH) else {
        return false;
    };
    let parts: Vec<_> = known.split(|byte| *byte == b'-').collect();
    let is_hex = |part: &&[u8]| {
        let mut digits = part.iter();
        digits.all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    let [version, trace, parent, flags] = parts[..] else {
        return false;
    };
    let may_have_more = version != b"00" && more.first() == Some(&b'-');
    [version, trace, parent, flags].map(<[u8]>::len) == PARTS
        && parts.iter().all(is_hex)
        && version != b"ff"
        && !is_zero(trace)
        && !is_zero(parent)
        && (more.is_empty() || may_have_more)
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn only_a_valid_traceparent_has_a_trace() {
        let zero = "0".repeat(32);
        for (field, is_valid) in [
            (format!("00-{TRACE}-00f067aa0ba902b7-01"), true),
            (format!("00-{TRACE}-00f067aa0ba902b7-00"), true),
            (format!("cc-{TRACE}-00f067aa0ba902b7-01"), true),
            (format!("cc-{TRACE}-00f067aa0ba902b7-01-more"), true),
            (format!("cc-{TRACE}-00f067aa0ba902b7-01more"), false),
            (format!("00-{TRACE}-00f067aa0ba902b7-01-more"), false),
            (format!("ff-{TRACE}-00f067aa0ba902b7-01"), false),
            (format!("00-{zero}-00f067aa0ba902b7-01"), false),
            (format!("00-{TRACE}-0000000000000000-01"), false),
            (
                format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
                false,
            ),
            (format!("00-{TRACE}-00f067aa0ba902b7"), false),
            (format!("00_{TRACE}_00f067aa0ba902b7_01"), false),
            (format!("0-0{TRACE}-00f067aa0ba902b7-01"), false),
            (String::new(), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.append("traceparent", field.parse().unwrap());
            let found = TraceId::in_fields(&headers).map(|trace| trace.to_string());
            assert_eq!(found.as_deref(), is_valid.then_some(TRACE), "{field}");
            headers.append("traceparent", field.parse().unwrap());
            assert!(TraceId::in_fields(&headers).is_none(), "two fields");
        }
    }
}
