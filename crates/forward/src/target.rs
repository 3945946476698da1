//! Method, target and `Host` of a request (RFC 9112 §3, RFC 9113 §8.3.1). The module does no I/O.
//!
//! The upstream's address never comes from the caller. The checks here make sure that the caller's own
//! words can't be read in two ways.

use http::{
    HeaderMap, HeaderValue, Method, Request, Uri, Version,
    header::HOST,
    uri::{Authority, PathAndQuery, Scheme},
};

use serve::websocket::WebSocket;

use super::rejection::Rejection;

/// Checks method, target and `Host` of a request that came by `scheme`.
pub(super) fn check<B>(scheme: &Scheme, request: &Request<B>) -> Result<(), Rejection> {
    let is_websocket = request.extensions().get::<WebSocket>().is_some();
    match *request.method() {
        // HTTP/2 opens a WebSocket by CONNECT (RFC 8441 §4).
        Method::CONNECT if is_websocket => {}
        Method::CONNECT | Method::TRACE => return Err(Rejection::Method),
        _ => {}
    }
    check_form(scheme, request.version(), request.uri())?;
    check_host(request.version(), request.uri(), request.headers())?;
    match (request.uri().path(), request.method()) {
        ("*", &Method::OPTIONS) => Err(Rejection::OwnHop),
        (path, _) if path.starts_with('/') => Ok(()),
        _ => Err(Rejection::Malformed("the target is not a path")),
    }
}

/// Returns the host that the caller asked for. The target's authority replaces `Host` (RFC 9112 §3.2.2).
pub(super) fn requested_host<B>(request: &Request<B>) -> Option<HeaderValue> {
    match request.uri().authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => request.headers().get(HOST).cloned(),
    }
}

/// Returns the host that the caller asked for, as [`requested_host`] does, if it is text.
pub(super) fn host<B>(request: &Request<B>) -> Option<&str> {
    match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers().get(HOST)?.to_str().ok(),
    }
}

/// Returns the path and query, byte for byte as requested. The upstream's connection gives scheme and
/// authority.
pub(super) fn without_authority(requested: &Uri) -> Uri {
    let own = requested.path_and_query();
    own.map_or(PathAndQuery::from_static("/"), with_slash)
        .into()
}

/// Returns the path and query with `/` for an empty path (RFC 9110 §4.2.3).
fn with_slash(requested: &PathAndQuery) -> PathAndQuery {
    if requested.as_str().starts_with('?') {
        let target = format!("/{}", requested.as_str());
        target.try_into().unwrap_or_else(|_| requested.clone())
    } else {
        requested.clone()
    }
}

fn check_form(own: &Scheme, version: Version, target: &Uri) -> Result<(), Rejection> {
    match (target.scheme(), target.authority()) {
        (None, Some(_)) => return Err(Rejection::Malformed("the target is an authority")),
        (Some(scheme), _) if scheme != own => {
            return Err(Rejection::Malformed(
                "the scheme is not that of the connection",
            ));
        }
        _ => {}
    }
    let path = target.path_and_query().map(PathAndQuery::as_str);
    if version == Version::HTTP_2 && path.is_some_and(|path| path.starts_with('?')) {
        return Err(Rejection::Malformed(":path does not begin with /"));
    }
    let odd = |byte: u8| !byte.is_ascii_graphic() || b"\"<>^|".contains(&byte);
    match path {
        Some(path) if path.bytes().any(odd) => Err(Rejection::Malformed(
            "the target has octets that no URI has",
        )),
        _ => Ok(()),
    }
}

fn check_host(version: Version, target: &Uri, headers: &HeaderMap) -> Result<(), Rejection> {
    let mut hosts = headers.get_all(HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(Rejection::Malformed("more than one Host"));
    }
    let authority = target.authority();
    let host = host.map(|host| host.to_str().unwrap_or_default());
    if authority.is_some_and(|one| !names_host(one)) || host.is_some_and(|one| !is_host(one)) {
        return Err(Rejection::Malformed("Host or authority is invalid"));
    }
    let authority = authority.map(Authority::as_str);
    match (version, authority, host) {
        (Version::HTTP_11, _, None) | (Version::HTTP_2, None, None) => {
            Err(Rejection::Malformed("no Host"))
        }
        (Version::HTTP_2, Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
            Err(Rejection::Malformed("Host differs from :authority"))
        }
        _ => Ok(()),
    }
}

/// Returns whether a text is `host [ ":" port ]`, without credentials and not empty (RFC 9110 §7.2,
/// §4.2.2). A comma would make a list of `X-Forwarded-Host`.
pub(super) fn is_host(text: &str) -> bool {
    Authority::try_from(text).is_ok_and(|authority| names_host(&authority))
}

/// Returns whether an authority is a host as [`is_host`] says.
fn names_host(authority: &Authority) -> bool {
    let text = authority.as_str();
    let Some(after) = text.strip_prefix(authority.host()) else {
        return false; // Userinfo comes before the host.
    };
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_port = match after.strip_prefix(':') {
        Some(port) => port.is_empty() || is_number(port) && authority.port_u16().is_some(),
        None => after.is_empty(), // Otherwise it is the rest of a userinfo that begins as the host does.
    };
    !authority.host().is_empty() && !text.contains(',') && is_port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_a_port_p071() {
        for text in ["a", "a.example:8443", "[::1]:1", "192.0.2.1", "a:", "xn--a"] {
            assert!(is_host(text), "{text}");
        }
        for text in [
            "", ":80", "a b/c@d", "a@a", "a@a:1", "u@a", "u:p@a", "@a", "a:b", "a:65536", "a/",
            "a?b", "a#b", "[::1", "\u{e4}", "a,b c", "a,b", "a:1:2", "a:+1",
        ] {
            assert!(!is_host(text), "{text}");
        }
    }

    fn checked(version: Version, method: &str, target: &str, hosts: &[&str]) -> u16 {
        let mut request = Request::builder()
            .version(version)
            .method(method)
            .uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        match check(&Scheme::HTTPS, &request.body(()).unwrap()) {
            Ok(()) => 200,
            Err(rejection) => rejection.status().as_u16(),
        }
    }

    #[test]
    fn targets_and_hosts_with_two_meanings_are_rejected() {
        use Version as V;
        for (number, version, method, target, hosts, status) in [
            ("P69", V::HTTP_11, "GET", "/", &[] as &[&str], 400),
            ("", V::HTTP_11, "GET", "/", &["a"], 200),
            ("P70", V::HTTP_11, "GET", "/", &["a", "a"], 400),
            ("P70", V::HTTP_11, "GET", "/", &["a", "b"], 400),
            ("P71", V::HTTP_11, "GET", "/", &[""], 400),
            ("P71", V::HTTP_11, "GET", "/", &["u@a"], 400),
            ("P72", V::HTTP_10, "GET", "/", &[], 200),
            ("P72", V::HTTP_10, "GET", "/", &["a", "b"], 400),
            ("P73", V::HTTP_11, "GET", "https://evil/x", &["a"], 200),
            ("P73", V::HTTP_11, "GET", "http://evil/x", &["a"], 400),
            ("P73", V::HTTP_11, "GET", "https://evil?x=1", &["a"], 200),
            ("P74", V::HTTP_11, "GET", "https://u:p@a/x", &["a"], 400),
            ("P75", V::HTTP_11, "GET", "a:80", &["a"], 400),
            ("P75", V::HTTP_11, "GET", "a", &["a"], 400),
            ("P76", V::HTTP_11, "GET", "*", &["a"], 400),
            ("P76", V::HTTP_11, "OPTIONS", "*", &["a"], 204),
            ("P77", V::HTTP_11, "CONNECT", "a:80", &["a"], 405),
            ("P77", V::HTTP_2, "CONNECT", "a:80", &[], 405),
            ("P79", V::HTTP_11, "TRACE", "/", &["a"], 405),
            ("P84", V::HTTP_2, "GET", "https://a/\u{e4}", &[], 400),
            ("P84", V::HTTP_2, "GET", "https://a/^", &[], 400),
            ("P84", V::HTTP_2, "GET", "https://a/?|", &[], 400),
            ("P88", V::HTTP_11, "get", "/", &["a"], 200),
            ("P88", V::HTTP_11, "PROPFIND", "/", &["a"], 200),
            ("P89", V::HTTP_2, "GET", "https://a/", &["b"], 400),
            ("P89", V::HTTP_2, "GET", "https://a/", &["A"], 200),
            ("P90", V::HTTP_2, "GET", "/", &["a"], 200),
            ("P90", V::HTTP_2, "GET", "/", &[], 400),
            ("P92", V::HTTP_2, "GET", "http://a/", &[], 400),
            ("P75", V::HTTP_2, "GET", "https://a?x=1", &[], 400),
            ("P75", V::HTTP_2, "POST", "https://a?", &[], 400),
            ("P75", V::HTTP_2, "OPTIONS", "https://a?*", &[], 400),
            ("P92", V::HTTP_2, "GET", "ftp://a/", &[], 400),
        ] {
            assert_eq!(
                checked(version, method, target, hosts),
                status,
                "{number} {method} {target} {hosts:?}"
            );
        }
    }

    #[test]
    fn the_scheme_of_a_target_is_that_of_the_connection() {
        for (scheme, target, is_accepted) in [
            (&Scheme::HTTP, "http://a/", true),
            (&Scheme::HTTP, "/", true),
            (&Scheme::HTTP, "https://a/", false),
            (&Scheme::HTTPS, "http://a/", false),
        ] {
            let request = Request::builder().uri(target).header(HOST, "a");
            let checked = check(scheme, &request.body(()).unwrap());
            assert_eq!(checked.is_ok(), is_accepted, "{scheme} {target}");
        }
    }

    #[test]
    fn the_upstream_s_authority_comes_from_configuration_only_p085() {
        for (requested, sent) in [
            ("/", "/"),
            ("https://evil/x?a=b", "/x?a=b"),
            ("https://evil", "/"),
            ("https://evil?x=1", "/?x=1"),
            ("https://evil?", "/?"),
            ("https://evil?//a/../b?c", "/?//a/../b?c"),
            ("/a/../%2e%2e/%2f?%zz%0d%0a", "/a/../%2e%2e/%2f?%zz%0d%0a"),
            // P82: a path, though it looks like an authority.
            ("https://a//evil.com/x", "//evil.com/x"),
        ] {
            let target = without_authority(&requested.parse().unwrap());
            assert_eq!(target.to_string(), sent);
            assert_eq!((target.scheme(), target.authority()), (None, None));
        }
    }
}
