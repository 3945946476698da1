//! Values of flags, each with a rule and an example for whoever breaks it.

use std::{net::SocketAddr, str::FromStr, time::Duration};

use http::{Uri, uri::Authority};
use spiffe::SpiffeId;

/// Longer is a mistake, and sums of such times must not overflow the clock.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Parses a time with its unit: more than zero, at most a year.
///
/// # Errors
/// When it is none, with a right example.
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

/// Parses a count of at least 1.
///
/// # Errors
/// When it is none.
pub fn positive(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|&n| n > 0)
        .ok_or_else(|| "expected a whole number of at least 1, for example 1000".into())
}

/// Parses a whole number.
///
/// # Errors
/// When it is none, with a right example.
pub fn whole_number<N: FromStr>(text: &str) -> Result<N, String> {
    text.parse()
        .map_err(|_| "expected a whole number, for example 10000".into())
}

/// Parses an IP address and port to listen on.
///
/// # Errors
/// When it is none, with right examples.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "expected an IP address and a port, for example [::]:8080 or 127.0.0.1:8080".into()
    })
}

/// Parses the SPIFFE ID of a workload: with a path.
///
/// # Errors
/// When it is none, with a right example.
pub fn workload_id(text: &str) -> Result<SpiffeId, String> {
    let id = SpiffeId::new(text)
        .map_err(|error| format!("{error}; expected for example spiffe://example.org/server"))?;
    match id.path() {
        "" => Err("a SPIFFE ID without a path names a trust domain, not a workload; expected for example spiffe://example.org/server".into()),
        _ => Ok(id),
    }
}

/// Parses a non-empty audience (JWT-SVID §3.2).
///
/// # Errors
/// When it is empty, or holds what no audience has.
pub fn audience(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err("an audience must not be empty or hold control characters; expected for example spiffe://example.org/server".into());
    }
    Ok(text.to_owned())
}

/// Parses an `https://` URL: a host, and whatever comes after it.
///
/// # Errors
/// When it is none, or could send a token in clear, with a right example.
pub fn https_url(text: &str) -> Result<Uri, String> {
    let error = |rule: &str| format!("{rule}; expected for example https://localhost:8443/");
    if text.contains('#') {
        return Err(error("a URL to request has no fragment"));
    }
    let url: Uri = text
        .parse()
        .map_err(|fault| error(&format!("not a URL: {fault}")))?;
    match (url.scheme_str(), url.authority()) {
        (Some("https"), Some(authority)) if authority.as_str().contains('@') => {
            Err(error("credentials don't belong in a URL"))
        }
        (Some("https"), Some(authority)) if authority.host().is_empty() => {
            Err(error("the host is missing"))
        }
        (Some("https"), Some(authority)) if has_bad_port(authority) => {
            Err(error("the port must be from 1 to 65535"))
        }
        (Some("https"), Some(_)) => Ok(url),
        (Some("http"), _) => Err(error("http would send the token in clear")),
        _ => Err(error("the scheme must be https")),
    }
}

/// What is written as a port and is none would silently become 443.
fn has_bad_port(authority: &Authority) -> bool {
    let written = authority.as_str().len() > authority.host().len();
    written && authority.port_u16().is_none_or(|port| port == 0)
}

/// Parses an upstream: scheme, host and port of a URL, nothing after them.
///
/// # Errors
/// When it is none, or has a path: the request's own path is kept.
pub fn upstream(text: &str) -> Result<Uri, String> {
    let url = https_url(text).map_err(|error| error.replace("8443/", "8080"))?;
    match url.path_and_query().map(http::uri::PathAndQuery::as_str) {
        None | Some("" | "/") => Ok(url),
        Some(_) => Err("an upstream has no path, the request's own is kept; expected for example https://localhost:8080".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_a_length() {
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
    fn a_workload_has_a_path() {
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
    fn urls_are_https_with_a_host() {
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
    fn an_upstream_has_no_path() {
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
    fn an_audience_is_not_empty() {
        assert_eq!(
            audience("spiffe://example.org/server").unwrap(),
            "spiffe://example.org/server"
        );
        assert!(audience("").is_err());
        assert!(audience("a\0b").is_err());
    }
}
