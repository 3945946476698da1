//! The message of a span, with the names of OpenTelemetry's semantic conventions for HTTP.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use common::sanitize::Sanitized;
use http::{Method, Version};
use serve::{peer::Peer, spans::Span};

use crate::message::{self, KeyValue, SpanKind, Status};

/// The methods that may name a span. Callers can send any other, so that the number of names would
/// have no bound.
const METHODS: [Method; 9] = [
    Method::CONNECT,
    Method::DELETE,
    Method::GET,
    Method::HEAD,
    Method::OPTIONS,
    Method::PATCH,
    Method::POST,
    Method::PUT,
    Method::TRACE,
];

/// The flags of a span whose parent is known, and is of another process.
const PARENT_IS_REMOTE: u32 = 0x300;

/// Returns the message of a span. `scheme` is that of the listener.
pub(crate) fn message(span: &Span, scheme: &str) -> message::Span {
    let is_known = METHODS.contains(&span.method);
    let name = if is_known {
        span.method.as_str()
    } else {
        "HTTP"
    };
    let parent = span.parent.as_ref();
    let is_error = error(span).is_some();
    message::Span {
        trace_id: span.context.trace_bytes().to_vec(),
        span_id: span.context.span_bytes().to_vec(),
        parent_span_id: parent.map_or_else(Vec::new, |parent| parent.span_bytes().to_vec()),
        name: name.to_owned(),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: nanos(span.begun),
        end_time_unix_nano: nanos(span.begun + span.took),
        attributes: attributes(span, scheme, is_known),
        status: is_error.then(|| Status {
            code: message::StatusCode::Error.into(),
        }),
        flags: u32::from(span.context.flags()) | parent.map_or(0, |_| PARENT_IS_REMOTE),
    }
}

fn attributes(span: &Span, scheme: &str, is_known: bool) -> Vec<KeyValue> {
    let method = span.method.as_str();
    let mut attributes = if is_known {
        vec![KeyValue::new("http.request.method", method)]
    } else {
        vec![
            KeyValue::new("http.request.method", "_OTHER"),
            KeyValue::new(
                "http.request.method_original",
                Sanitized(method).to_string(),
            ),
        ]
    };
    let version = match span.protocol {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    attributes.extend([
        KeyValue::new("url.scheme", scheme),
        KeyValue::new("url.path", span.path.as_str()),
        KeyValue::new("network.protocol.version", version),
        KeyValue::new("http.request.body.size", integer(span.received)),
        KeyValue::new("http.response.body.size", integer(span.sent)),
    ]);
    attributes.extend(peer(&span.peer));
    let status = span.status.map(|status| i64::from(status.as_u16()));
    attributes.extend(status.map(|code| KeyValue::new("http.response.status_code", code)));
    attributes.extend(error(span).map(|kind| KeyValue::new("error.type", kind)));
    let reason = span.reason.map(|reason| reason.to_string());
    attributes.extend(reason.map(|reason| KeyValue::new("spiffe.refusal.reason", reason)));
    let caller = span.caller.as_ref().map(ToString::to_string);
    attributes.extend(caller.map(|caller| KeyValue::new("spiffe.caller.id", caller)));
    for (name, time) in [
        ("spiffe.verification.duration", span.verification),
        ("spiffe.upstream.duration", span.upstream),
    ] {
        let seconds = time.as_ref().map(Duration::as_secs_f64);
        attributes.extend(seconds.map(|seconds| KeyValue::new(name, seconds)));
    }
    attributes
}

/// Returns the attributes of the connection's peer.
fn peer(peer: &Peer) -> Vec<KeyValue> {
    let Ok(address) = peer.to_string().parse::<SocketAddr>() else {
        return vec![KeyValue::new("network.transport", "unix")];
    };
    let ip = address.ip().to_string();
    vec![
        KeyValue::new("client.address", ip.as_str()),
        KeyValue::new("network.peer.address", ip),
        KeyValue::new("network.peer.port", i64::from(address.port())),
    ]
}

/// Returns the kind of the error, if the request failed without a fault of its caller.
fn error(span: &Span) -> Option<String> {
    match span.status {
        None => Some("no_answer".into()),
        Some(status) if status.is_server_error() => Some(match span.reason {
            Some(reason) => reason.to_string(),
            None => status.as_str().to_owned(),
        }),
        Some(_) => None,
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::reason::Reason;
    use http::HeaderMap;
    use serve::trace::TraceContext;

    use super::*;
    use crate::message::{AnyValue, Value};

    fn context(span: &str) -> TraceContext {
        let mut headers = HeaderMap::new();
        let field = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{span}-01");
        headers.insert("traceparent", field.parse().unwrap());
        TraceContext::in_fields(&headers).unwrap()
    }

    fn span() -> Span {
        Span {
            context: context("00f067aa0ba902b8"),
            parent: Some(context("00f067aa0ba902b7")),
            begun: UNIX_EPOCH + Duration::from_secs(1),
            took: Duration::from_micros(2),
            method: Method::GET,
            path: "/".into(),
            protocol: Version::HTTP_2,
            peer: Peer::from("[2001:db8::1]:443".parse::<SocketAddr>().unwrap()),
            caller: None,
            status: Some(http::StatusCode::OK),
            reason: None,
            received: 0,
            sent: u64::MAX,
            verification: None,
            upstream: Some(Duration::from_millis(1500)),
        }
    }

    fn value(message: &message::Span, key: &str) -> Option<Value> {
        let mut found = message.attributes.iter().filter(|one| one.key == key);
        let value = found.next()?.value.clone();
        assert_eq!(found.next(), None, "{key} is there once");
        value.and_then(|AnyValue { value }| value)
    }

    #[test]
    fn times_ids_and_sizes_are_those_of_the_request() {
        let message = message(&span(), "https");
        assert_eq!(message.start_time_unix_nano, 1_000_000_000);
        assert_eq!(message.end_time_unix_nano, 1_000_002_000);
        assert_eq!(message.trace_id[..2], [0x4b, 0xf9]);
        assert_eq!(message.span_id[7], 0xb8);
        assert_eq!(message.parent_span_id[7], 0xb7);
        assert_eq!(message.flags, 0x301);
        for (key, expected) in [
            ("http.response.body.size", Some(i64::MAX.into())),
            ("network.peer.address", Some("2001:db8::1".into())),
            ("network.peer.port", Some(443.into())),
            ("network.protocol.version", Some("2".into())),
            ("spiffe.upstream.duration", Some(1.5.into())),
            ("spiffe.verification.duration", None),
            ("spiffe.caller.id", None),
        ] {
            assert_eq!(value(&message, key), expected, "{key}");
        }
        let root = Span {
            parent: None,
            ..span()
        };
        let message = super::message(&root, "https");
        assert_eq!((message.parent_span_id.len(), message.flags), (0, 1));
    }

    #[test]
    fn method_that_a_caller_chooses_is_not_the_name_of_a_span() {
        for (method, name, attribute, original) in [
            ("POST", "POST", "POST", None),
            ("get", "HTTP", "_OTHER", Some("get")),
            ("QUERY", "HTTP", "_OTHER", Some("QUERY")),
        ] {
            let method = method.parse().unwrap();
            let message = message(&Span { method, ..span() }, "https");
            assert_eq!(message.name, name);
            assert_eq!(
                value(&message, "http.request.method"),
                Some(attribute.into())
            );
            let found = value(&message, "http.request.method_original");
            assert_eq!(found, original.map(Value::from));
        }
    }

    #[test]
    fn failure_without_a_fault_of_the_caller_is_an_error_with_its_type() {
        for (status, reason, kind) in [
            (Some(200), None, None),
            (Some(404), None, None),
            (Some(403), Some(Reason::NotAllowed), None),
            (Some(500), None, Some("500")),
            (
                Some(502),
                Some(Reason::UpstreamConnect),
                Some("upstream_connect"),
            ),
            (None, None, Some("no_answer")),
        ] {
            let status = status.map(|code| http::StatusCode::from_u16(code).unwrap());
            let of_request = Span {
                status,
                reason,
                ..span()
            };
            let message = message(&of_request, "https");
            assert_eq!(value(&message, "error.type"), kind.map(Value::from));
            let code = message.status.as_ref().map(|status| status.code);
            assert_eq!(code, kind.map(|_| message::StatusCode::Error.into()));
            let reason = reason.map(|reason| Value::from(reason.to_string()));
            assert_eq!(value(&message, "spiffe.refusal.reason"), reason);
        }
    }
}
