//! The trace that a request belongs to (W3C Trace Context, `traceparent`).
//!
//! `opentelemetry_sdk` has a propagator for the same field. It reads the field into a context of its own and writes it
//! again. Here the field stays one header value, so that a log line borrows its IDs. [`spans`](crate::spans) says
//! what the crates of OpenTelemetry cost.

use std::ops::Range;

use http::{HeaderMap, HeaderName, HeaderValue};
use tracing::field::{DisplayValue, display};

/// The context of a request in its trace: a valid `traceparent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext(HeaderValue);

/// The field with the context. A static name is checked once, and not for each request.
pub(crate) static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The IDs of a trace and of a span in it, as fields of a log line.
type Ids<'a> = [Option<DisplayValue<&'a str>>; 2];

/// The length of a `traceparent`: version, trace ID, span ID and flags in hexadecimal, with hyphens between them.
const LENGTH: usize = 55;
const HYPHENS: [usize; 3] = [2, 35, 52];
const TRACE_ID: Range<usize> = 3..35;
const SPAN_ID: Range<usize> = 36..52;
const FLAGS: Range<usize> = 53..55;

/// The flags: the caller may have recorded its span, and the ID of the trace is random.
const SAMPLED: u8 = 1;
const RANDOM: u8 = 2;

impl TraceContext {
    /// Returns the context in a valid `traceparent`, if there is exactly one such field.
    #[must_use]
    pub fn in_fields(headers: &HeaderMap) -> Option<Self> {
        field(headers).cloned().map(Self)
    }

    /// Returns the context of a new trace, which is sampled and has a random ID.
    pub(crate) fn begin() -> Self {
        Self::made(fastrand::u128(1..), SAMPLED | RANDOM)
    }

    /// Returns the context of a new span in this trace.
    pub(crate) fn child(&self) -> Self {
        let trace = u128::from_be_bytes(self.trace_bytes());
        // The other flags are of versions that are not known here.
        Self::made(trace, self.flags() & (SAMPLED | RANDOM))
    }

    fn made(trace: u128, flags: u8) -> Self {
        let span = fastrand::u64(1..);
        let text = format!("00-{trace:032x}-{span:016x}-{flags:02x}");
        Self(HeaderValue::try_from(text).expect("visible ASCII"))
    }

    /// Returns whether the caller may have recorded its span, and asks for further spans.
    pub(crate) fn is_sampled(&self) -> bool {
        self.flags() & SAMPLED != 0
    }

    /// Returns the flags.
    #[must_use]
    pub fn flags(&self) -> u8 {
        u8::from_str_radix(part(&self.0, FLAGS), 16).unwrap_or_default()
    }

    /// Returns the ID of the trace.
    #[must_use]
    pub fn trace_bytes(&self) -> [u8; 16] {
        u128::from_str_radix(self.trace_id(), 16)
            .unwrap_or_default()
            .to_be_bytes()
    }

    /// Returns the ID of the span.
    #[must_use]
    pub fn span_bytes(&self) -> [u8; 8] {
        u64::from_str_radix(self.span_id(), 16)
            .unwrap_or_default()
            .to_be_bytes()
    }

    /// Returns the `traceparent`.
    pub(crate) fn field(&self) -> &HeaderValue {
        &self.0
    }

    /// Returns the fields `trace_id` and `span_id` of a log line.
    #[must_use]
    pub fn ids(context: Option<&Self>) -> Ids<'_> {
        ids(context.map(Self::field))
    }

    /// Returns the fields `trace_id` and `span_id` of a log line about a request with these fields.
    #[must_use]
    pub fn ids_in(headers: &HeaderMap) -> Ids<'_> {
        ids(field(headers))
    }

    /// Returns the ID of the trace: 32 digits in hexadecimal.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        part(&self.0, TRACE_ID)
    }

    /// Returns the ID of the span that the request belongs to: 16 digits in hexadecimal.
    #[must_use]
    pub fn span_id(&self) -> &str {
        part(&self.0, SPAN_ID)
    }
}

/// Returns the valid `traceparent` in these fields, if there is exactly one such field.
fn field(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut fields = headers.get_all(&TRACEPARENT).iter();
    let field = fields.next().filter(|_| fields.next().is_none())?;
    is_valid(field.as_bytes()).then_some(field)
}

fn ids(field: Option<&HeaderValue>) -> Ids<'_> {
    [TRACE_ID, SPAN_ID].map(|digits| field.map(|field| display(part(field, digits))))
}

fn part(field: &HeaderValue, digits: Range<usize>) -> &str {
    let text = field.to_str().unwrap_or_default();
    text.get(digits).unwrap_or_default()
}

/// Returns whether a `traceparent` is valid. A later version than 00 may have more after its flags.
fn is_valid(field: &[u8]) -> bool {
    let Some((known, more)) = field.split_at_checked(LENGTH) else {
        return false;
    };
    let is_in_form = known.iter().enumerate().all(|(index, byte)| {
        if HYPHENS.contains(&index) {
            *byte == b'-'
        } else {
            matches!(byte, b'0'..=b'9' | b'a'..=b'f')
        }
    });
    let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    let version = &known[..2];
    let may_have_more = version != b"00" && more.first() == Some(&b'-');
    is_in_form
        && version != b"ff"
        && !is_zero(&known[TRACE_ID])
        && !is_zero(&known[SPAN_ID])
        && (more.is_empty() || may_have_more)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn child_has_a_span_of_its_own_and_the_flags_that_are_known() {
        for (field, flags, is_sampled) in [
            (format!("00-{TRACE}-{SPAN}-00"), 0, false),
            (format!("00-{TRACE}-{SPAN}-01"), 1, true),
            (format!("00-{TRACE}-{SPAN}-03"), 3, true),
            (format!("cc-{TRACE}-{SPAN}-ff-more"), 3, true),
            (format!("cc-{TRACE}-{SPAN}-fe"), 2, false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", field.parse().unwrap());
            let parent = TraceContext::in_fields(&headers).unwrap();
            assert_eq!(parent.is_sampled(), is_sampled, "{field}");
            let child = parent.child();
            assert!(is_valid(child.field().as_bytes()), "{child:?}");
            assert!(child.field().as_bytes().starts_with(b"00-"));
            assert_eq!(child.trace_id(), TRACE);
            assert_ne!(child.span_id(), SPAN);
            assert_eq!(child.flags(), flags, "{field}");
            assert_eq!(parent.trace_bytes()[..2], [0x4b, 0xf9]);
            assert_eq!(parent.span_bytes()[..2], [0x00, 0xf0]);
        }
        let [one, other] = [TraceContext::begin(), TraceContext::begin()];
        assert!(is_valid(one.field().as_bytes()) && one.is_sampled());
        assert_ne!(one.trace_id(), other.trace_id());
    }

    #[test]
    fn only_a_valid_traceparent_is_a_context() {
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
            let found = TraceContext::in_fields(&headers);
            let ids = found.as_ref().map(|one| (one.trace_id(), one.span_id()));
            assert_eq!(ids, is_valid.then_some((TRACE, SPAN)), "{field}");
            headers.append("traceparent", field.parse().unwrap());
            assert!(TraceContext::in_fields(&headers).is_none(), "two fields");
        }
    }
}
