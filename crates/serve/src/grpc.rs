//! gRPC callers, and the form of answers that they understand.
//!
//! A gRPC caller takes its status from `grpc-status`, and most gRPC libraries hide the body of any
//! other answer. Answers that this process gives instead of the application therefore have that form.

use std::time::Duration;

use common::reason::Reason;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use tokio::time::Instant;

use crate::body::Body;

/// Returns whether a request is a gRPC call. gRPC-Web does not count, because it is ordinary HTTP.
#[must_use]
pub fn is_call<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2 && is_grpc(request.headers())
}

/// Returns whether the content of a message is gRPC's: `application/grpc`, with or without the name of
/// a coding.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type.is_some_and(|value| {
        let (beginning, rest) = value.split_at_checked(GRPC.len()).unwrap_or_default();
        let ends = matches!(rest, [] | [b'+' | b';' | b' ' | b'\t', ..]);
        beginning.eq_ignore_ascii_case(GRPC) && ends
    })
}

/// Returns the time at which a call that came at `now` ends for its caller, if `grpc-timeout` has one.
pub(crate) fn deadline(headers: &HeaderMap, now: Instant) -> Option<Instant> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_valid =
        (1..=8).contains(&digits.len()) && digits.bytes().all(|one| one.is_ascii_digit());
    let count: u64 = digits.parse().ok().filter(|_| is_valid)?;
    let timeout = match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    };
    now.checked_add(timeout)
}

/// Returns the answer to a gRPC call instead of an error of this process. It is a head alone, with the status
/// and the reason phrase. Other fields, such as `WWW-Authenticate`, are kept. `reason` is that of the error, and
/// `is_late` is true if the call's time is over.
pub(crate) fn answer(
    error: Response<Body>,
    reason: Option<Reason>,
    is_late: bool,
) -> Response<Body> {
    let (mut head, _) = error.into_parts();
    let (code, message) = match reason {
        // An upstream whose time is over cancels the call, often before the caller's own timer.
        Some(Reason::UpstreamCancelled) if is_late => (4, "Deadline Exceeded"),
        Some(Reason::UpstreamCancelled) => (1, "Cancelled"),
        _ => {
            let message = head.status.canonical_reason();
            (code(head.status), message.unwrap_or_default())
        }
    };
    head.status = StatusCode::OK;
    head.headers.remove(CONTENT_LENGTH);
    let grpc = HeaderValue::from_static("application/grpc");
    head.headers.insert(CONTENT_TYPE, grpc);
    head.headers.insert("grpc-status", HeaderValue::from(code));
    let message = HeaderValue::from_static(message);
    head.headers.insert("grpc-message", message);
    Response::from_parts(head, Body::empty())
}

/// Returns gRPC's code for a status, as gRPC's "HTTP to gRPC Status Code Mapping" has it. Only 504 has a
/// code of its own, because it means here that the time of a call was over.
#[must_use]
pub fn code(status: StatusCode) -> u16 {
    match status {
        StatusCode::BAD_REQUEST => 13,
        StatusCode::UNAUTHORIZED => 16,
        StatusCode::FORBIDDEN => 7,
        StatusCode::NOT_FOUND => 12,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE => 14,
        StatusCode::GATEWAY_TIMEOUT => 4,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use http::header::WWW_AUTHENTICATE;
    use http_body::Body as _;

    use super::*;
    use crate::body;

    #[test]
    fn a_call_is_told_by_its_version_and_content_h005() {
        for (version, content_type, expected) in [
            (Version::HTTP_2, "application/grpc", true),
            (Version::HTTP_2, "application/grpc+proto", true),
            (Version::HTTP_2, "Application/gRPC; charset=utf-8", true),
            (Version::HTTP_2, "application/grpc-web+proto", false),
            (Version::HTTP_2, "application/grp", false),
            (Version::HTTP_2, "", false),
            (Version::HTTP_11, "application/grpc", false),
        ] {
            let request = Request::builder()
                .version(version)
                .header(CONTENT_TYPE, content_type);
            assert_eq!(
                is_call(&request.body(()).unwrap()),
                expected,
                "{content_type}"
            );
        }
    }

    #[test]
    fn a_call_has_the_time_of_grpc_timeout_h004() {
        let now = Instant::now();
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (value, expected) in [
            ("1H", seconds(3600)),
            ("2M", seconds(120)),
            ("99999999S", seconds(99_999_999)),
            ("5000m", seconds(5)),
            ("5000000u", seconds(5)),
            ("7n", Some(Duration::from_nanos(7))),
            ("0m", seconds(0)),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("5", None),
            ("+5S", None),
            ("5s", None),
            ("5 S", None),
        ] {
            let value = HeaderValue::from_static(value);
            let headers = HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), value.clone())]);
            let expected = expected.map(|timeout| now + timeout);
            assert_eq!(deadline(&headers, now), expected, "{value:?}");
        }
        assert_eq!(deadline(&HeaderMap::new(), now), None);
    }

    #[test]
    fn an_error_becomes_a_grpc_status_and_keeps_its_challenge_h005() {
        for (status, code, message) in [
            (400, "13", "Bad Request"),
            (401, "16", "Unauthorized"),
            (403, "7", "Forbidden"),
            (404, "12", "Not Found"),
            (408, "2", "Request Timeout"),
            (413, "2", "Payload Too Large"),
            (429, "14", "Too Many Requests"),
            (500, "2", "Internal Server Error"),
            (502, "14", "Bad Gateway"),
            (503, "14", "Service Unavailable"),
            (504, "4", "Gateway Timeout"),
        ] {
            let mut error = body::status(StatusCode::from_u16(status).unwrap());
            let challenge = HeaderValue::from_static("Bearer");
            error.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            let answer = answer(error, None, true);
            assert_eq!(answer.status(), StatusCode::OK);
            assert!(answer.body().is_end_stream(), "{status}");
            for (name, value) in [
                ("content-type", "application/grpc"),
                ("grpc-status", code),
                ("grpc-message", message),
                ("www-authenticate", "Bearer"),
            ] {
                assert_eq!(answer.headers()[name], value, "{status}");
            }
        }
    }
}
