//! The check of a request's `Host` and `Origin` against pages of other origins in a browser.
//!
//! A page may let its own name resolve to the address of this listener (DNS rebinding). The browser then takes
//! both for one origin, and names the page's host in `Host`. So a request must name the listener by an IP
//! address, by `localhost`, or by a name that the operator gave.

use std::net::{Ipv4Addr, Ipv6Addr};

use common::sanitize::Sanitized;
use http::{StatusCode, header, request::Parts};

/// A request that is refused: the status, and the text for its sender.
pub(super) type Denial = (StatusCode, String);

/// Checks that a request names the listener by an address, or by one of `names`.
pub(super) fn check(head: &Parts, names: &[String]) -> Result<(), Denial> {
    let host = authority(head)?;
    if !is_ours(without_port(&host), names) {
        let text = format!(
            "{} is not a name of this listener; use an IP address, localhost, or a name of --admin-host\n",
            Sanitized(&host)
        );
        return Err((StatusCode::MISDIRECTED_REQUEST, text));
    }
    let is_same = |origin: &[u8]| {
        let expected = format!("http://{host}");
        origin.eq_ignore_ascii_case(expected.as_bytes())
    };
    let mut origins = head.headers.get_all(header::ORIGIN).iter();
    if origins.all(|origin| is_same(origin.as_bytes())) {
        Ok(())
    } else {
        let text = "pages of other origins may not use this listener\n".to_owned();
        Err((StatusCode::FORBIDDEN, text))
    }
}

/// Returns the host and port that a request is for (RFC 9112 §3.2).
fn authority(head: &Parts) -> Result<String, Denial> {
    let rejected = |text: &str| Err((StatusCode::BAD_REQUEST, format!("{text}\n")));
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return rejected("a request has exactly one Host");
    };
    let Ok(host) = host.to_str() else {
        return rejected("the Host is not text");
    };
    match head.uri.authority() {
        Some(authority) => Ok(authority.to_string()),
        None => Ok(host.to_owned()),
    }
}

/// Returns the host of `host:port`. The brackets of an IPv6 address stay.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_ours(host: &str, names: &[String]) -> bool {
    let in_brackets = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let is_address = match in_brackets {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<Ipv4Addr>().is_ok(),
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_name = |known: &str| known.eq_ignore_ascii_case(name);
    is_address || is_name("localhost") || names.iter().any(|known| is_name(known))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn status(target: &str, fields: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        match check(&head, &["admin.internal".to_owned()]) {
            Ok(()) => 200,
            Err((status, text)) => {
                assert!(text.ends_with('\n') && !text.contains('\u{1b}'), "{text:?}");
                status.as_u16()
            }
        }
    }

    #[test]
    fn host_that_is_not_a_name_of_the_listener_is_refused_with_421() {
        for (host, expected) in [
            ("127.0.0.1:9090", 200),
            ("127.0.0.1", 200),
            ("[::1]:9090", 200),
            ("[::1]", 200),
            ("10.0.0.7:9090", 200),
            ("localhost", 200),
            ("LocalHost.:9090", 200),
            ("admin.internal:9090", 200),
            ("Admin.Internal", 200),
            ("evil.example", 421),
            ("evil.example:9090", 421),
            ("localhost.evil.example:9090", 421),
            ("evil.example:127.0.0.1", 421),
            ("127.0.0.1.evil.example", 421),
            ("127.1", 421),
            ("::1", 421),
            ("[127.0.0.1]", 421),
            ("user@127.0.0.1", 421),
            ("", 421),
            (":9090", 421),
        ] {
            assert_eq!(status("/ready", &[("host", host)]), expected, "{host}");
        }
    }

    #[test]
    fn request_without_one_host_is_rejected_with_400() {
        assert_eq!(status("/", &[]), 400);
        let ours = ("host", "127.0.0.1");
        assert_eq!(status("/", &[ours, ours]), 400);
        assert_eq!(status("/", &[("host", "\u{e9}")]), 400);
    }

    #[test]
    fn host_of_the_target_counts_before_the_field() {
        let ours = ("host", "127.0.0.1");
        assert_eq!(status("http://evil.example/ready", &[ours]), 421);
        assert_eq!(status("http://127.0.0.1/ready", &[ours]), 200);
    }

    #[test]
    fn origin_of_another_page_is_refused_with_403() {
        for (origin, expected) in [
            ("http://127.0.0.1:9090", 200),
            ("HTTP://127.0.0.1:9090", 200),
            ("http://127.0.0.1:9091", 403),
            ("https://127.0.0.1:9090", 403),
            ("http://evil.example", 403),
            ("null", 403),
            ("", 403),
        ] {
            let fields = [("host", "127.0.0.1:9090"), ("origin", origin)];
            assert_eq!(status("/log", &fields), expected, "{origin}");
        }
    }
}
