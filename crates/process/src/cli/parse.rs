//! Parsers of flag values. Their errors give the rule and an example.

use std::{net::SocketAddr, str::FromStr, time::Duration};

use common::sanitize::disturbs_a_line;
use forward::outbound::{Protocol, UpstreamUrl, has_bad_port};
use http::{Uri, uri::PathAndQuery};
use spiffe::SpiffeId;

use crate::listen::socket_path;

/// The longest duration. A longer one is a mistake, and sums must not overflow the clock.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The largest clock skew. RFC 7519 §4.1.4 says "usually no more than a few minutes".
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(300);

/// Parses a duration with its unit, more than zero and at most a year.
///
/// # Errors
/// Fails with an example when the text is not such a duration.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration > MAX_DURATION => {
            Err("must be at most a year; expected for example 30s".into())
        }
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err("must be more than zero; expected for example 30s".into()),
        Err(_) => Err("expected a number and a unit, for example 500ms, 30s, 5m, or 1h 30m".into()),
    }
}

/// Parses a clock skew in whole seconds from 0 to 5 minutes.
///
/// # Errors
/// Fails with an example when the text is not such a duration.
pub fn clock_skew(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(skew) if skew <= MAX_CLOCK_SKEW && skew.subsec_nanos() == 0 => Ok(skew),
        _ => Err("expected whole seconds from 0s to 5m, for example 30s".into()),
    }
}

/// Parses a duration with its unit, which may be zero.
///
/// # Errors
/// Fails with an example when the text is not such a duration.
pub(super) fn pause(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(pause) if pause.is_zero() => Ok(pause),
        _ => {
            duration(text).map_err(|_| "expected 0s, or a number and a unit, for example 5s".into())
        }
    }
}

/// Parses a count of at least 1.
///
/// # Errors
/// Fails with an example when the text is not such a count.
pub fn positive(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|&n| n > 0)
        .ok_or_else(|| "expected a whole number of at least 1, for example 1000".into())
}

/// Parses a whole number.
///
/// # Errors
/// Fails with an example when the text is not a whole number.
pub fn whole_number<N: FromStr>(text: &str) -> Result<N, String> {
    text.parse()
        .map_err(|_| "expected a whole number, for example 10000".into())
}

/// Parses an IP address and port to listen on.
///
/// # Errors
/// Fails with examples when the text is not such an address.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "expected an IP address and a port, for example [::]:8080 or 127.0.0.1:8080".into()
    })
}

/// Parses the SPIFFE ID of a workload, which has a path.
///
/// # Errors
/// Fails with an example when the text is not such a SPIFFE ID.
pub fn workload_id(text: &str) -> Result<SpiffeId, String> {
    let id = SpiffeId::new(text)
        .map_err(|error| format!("{error}; expected for example spiffe://example.org/server"))?;
    match id.path() {
        "" => Err("a SPIFFE ID without a path names a trust domain, not a workload; expected for example spiffe://example.org/server".into()),
        _ => Ok(id),
    }
}

/// Parses the hint of an identity (Workload API §8).
///
/// # Errors
/// Fails with the rule and an example when the text is not a hint.
pub(super) fn hint(text: &str) -> Result<String, String> {
    const MAX: usize = 1024;
    if (1..=MAX).contains(&text.len()) && !text.contains(disturbs_a_line) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "a hint has 1 to {MAX} bytes and no control characters; expected for example internal"
        ))
    }
}

/// Parses a non-empty audience (JWT-SVID §3.2).
///
/// # Errors
/// Fails with an example when the text is empty or has control characters.
pub fn audience(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(disturbs_a_line) {
        return Err("an audience must not be empty or hold control characters; expected for example spiffe://example.org/server".into());
    }
    Ok(text.to_owned())
}

/// Parses an `https://` URL with a host. Port, path and query are optional.
///
/// # Errors
/// Fails with an example when the text is not such a URL, or when a token would be sent in clear.
pub fn https_url(text: &str) -> Result<Uri, String> {
    https(text).map_err(|rule| format!("{rule}; expected for example https://localhost:8443/"))
}

/// Parses such a URL. The error is the rule that the text breaks, without an example.
fn https(text: &str) -> Result<Uri, String> {
    let error = |rule: &str| Err(rule.to_owned());
    if text.contains('#') {
        return error("a URL to request has no fragment");
    }
    let url: Uri = text
        .parse()
        .map_err(|fault| format!("not a URL: {fault}"))?;
    match (url.scheme_str(), url.authority()) {
        (Some("https"), Some(authority)) if authority.as_str().contains('@') => {
            error("credentials don't belong in a URL")
        }
        (Some("https"), Some(authority)) if authority.host().is_empty() => {
            error("the host is missing")
        }
        (Some("https"), Some(authority)) if has_bad_port(authority) => {
            error("the port must be from 1 to 65535")
        }
        (Some("https"), Some(_)) => Ok(url),
        (Some("http"), _) => error("http would send the token in clear"),
        _ => error("the scheme must be https"),
    }
}

/// Parses an upstream: scheme, host and port of a URL. It has no path, because the request's own
/// path is kept.
///
/// # Errors
/// Fails with an example when the text is not such a URL.
pub fn upstream(text: &str) -> Result<UpstreamUrl, String> {
    https(text)
        .and_then(|url| without_path(&url, Protocol::Https).ok_or_else(|| NO_PATH.to_owned()))
        .map_err(|rule| format!("{rule}; expected for example https://localhost:8080"))
}

/// Returns the upstream of a URL that has a host and no path.
#[must_use]
pub fn without_path(url: &Uri, protocol: Protocol) -> Option<UpstreamUrl> {
    let is_root = matches!(
        url.path_and_query().map(PathAndQuery::as_str),
        None | Some("" | "/")
    );
    let host = url.authority().filter(|_| is_root)?;
    Some(UpstreamUrl::host(protocol, host.clone()))
}

/// Parses the address of an application: a URL with or without TLS, or a Unix socket.
///
/// # Errors
/// Fails with examples when the text is not such an address.
pub fn application(text: &str) -> Result<UpstreamUrl, String> {
    let error = |rule: &str| {
        format!(
            "{rule}; expected for example http://127.0.0.1:3000, h2c://127.0.0.1:50051, unix:/run/app.sock, unix+h2c:/run/app.sock, or https://app.example.org:8443"
        )
    };
    for (prefix, is_http2) in [("unix+h2c:", true), ("unix:", false)] {
        if let Some(path) = text.strip_prefix(prefix) {
            return socket_path(path)
                .map(|path| UpstreamUrl::socket(path, is_http2))
                .ok_or_else(|| error("the path of a Unix socket begins with /"));
        }
    }
    let (scheme, rest) = text.split_once("://").ok_or_else(|| error("not a URL"))?;
    let protocol = match scheme {
        "https" => Protocol::Https,
        "http" => Protocol::Http,
        "h2c" => Protocol::H2c,
        _ => {
            return Err(error(
                "the scheme must be http, h2c, unix, unix+h2c or https",
            ));
        }
    };
    let url = https(&format!("https://{rest}")).map_err(|rule| error(&rule))?;
    without_path(&url, protocol).ok_or_else(|| error(NO_PATH))
}

const NO_PATH: &str = "an upstream has no path, because the request's own path is kept";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_without_a_unit_or_length_are_refused() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        for text in [
            "",
            "30",
            "0s",
            "-1s",
            "1 fortnight",
            "s",
            "366days",
            "18446744073709551615s",
        ] {
            assert!(duration(text).unwrap_err().contains("30s"), "{text}");
        }
    }

    #[test]
    fn a_workload_id_without_a_path_is_refused() {
        assert!(workload_id("spiffe://example.org/server").is_ok());
        for text in [
            "",
            "server",
            "spiffe://example.org",
            "spiffe://example.org/",
            "https://example.org/server",
            "spiffe://example.org/a b",
        ] {
            assert!(
                workload_id(text)
                    .unwrap_err()
                    .contains("spiffe://example.org/server"),
                "{text}"
            );
        }
    }

    #[test]
    fn urls_that_are_not_https_with_a_host_are_refused() {
        for text in [
            "https://localhost",
            "https://localhost:8443/",
            "https://[::1]:8443/a?b=c",
        ] {
            assert!(https_url(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "/",
            "localhost:8443",
            "http://localhost:8443/",
            "ftp://a/",
            "https://",
            "https://u:p@a/",
            "https://a:99999/",
            "https://a:0/",
            "https://a:/",
            "https://a/#b",
            "https://a b/",
        ] {
            assert!(
                https_url(text)
                    .unwrap_err()
                    .contains("https://localhost:8443/"),
                "{text}"
            );
        }
    }

    #[test]
    fn an_upstream_with_a_path_is_refused() {
        assert!(upstream("https://localhost:8080").is_ok());
        assert!(upstream("https://localhost:8080/").is_ok());
        for text in [
            "https://localhost:8080/api",
            "https://localhost:8080?a",
            "http://localhost:8080",
        ] {
            assert!(
                upstream(text)
                    .unwrap_err()
                    .contains("https://localhost:8080"),
                "{text}"
            );
        }
    }

    #[test]
    fn an_application_is_a_url_or_a_unix_socket() {
        for (text, shown) in [
            ("http://127.0.0.1:3000", "http://127.0.0.1:3000/"),
            ("http://[::1]:3000/", "http://[::1]:3000/"),
            ("h2c://localhost:50051", "h2c://localhost:50051/"),
            ("https://app.example.org", "https://app.example.org/"),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
            ("unix:///run/app.sock", "unix:/run/app.sock"),
            ("unix+h2c:/run/app.sock", "unix+h2c:/run/app.sock"),
        ] {
            assert_eq!(
                application(text).map(|url| url.to_string()),
                Ok(shown.into())
            );
        }
        for text in [
            "",
            "127.0.0.1:3000",
            "http://",
            "ftp://a",
            "http://a/b",
            "http://u@a",
            "http://a:0",
            "h2c://a?b",
            "unix:run/app.sock",
            "unix:",
            "unix://host/path",
            "http:///a",
        ] {
            let error = application(text).unwrap_err();
            assert!(
                error.contains("expected for example http://127"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn an_empty_audience_is_refused() {
        assert_eq!(
            audience("spiffe://example.org/server").unwrap(),
            "spiffe://example.org/server"
        );
        assert!(audience("").is_err());
        assert!(audience("a\0b").is_err());
    }

    #[test]
    fn a_clock_skew_that_is_long_or_not_of_whole_seconds_is_refused() {
        for (text, seconds) in [("0s", 0), ("30s", 30), ("5m", 300)] {
            assert_eq!(clock_skew(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "30", "-1s", "301s", "1h", "500ms"] {
            assert!(clock_skew(text).unwrap_err().contains("30s"), "{text}");
        }
    }
}
