//! The URL of an upstream.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use http::{
    Uri,
    uri::{Authority, PathAndQuery, Scheme},
};

/// The URL of an upstream: the protocol, and the address to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamUrl {
    protocol: Protocol,
    address: Address,
}

/// The protocol that an upstream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TLS, and HTTP/2 or HTTP/1.1 as ALPN chooses.
    Https,
    /// HTTP/1.1 without TLS.
    Http,
    /// HTTP/2 without TLS, with prior knowledge (RFC 9113 §3.3).
    H2c,
}

/// The address to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Host(Authority),
    /// The path of a Unix socket.
    Socket(PathBuf),
}

/// The authority of requests to a Unix socket, which has no host.
const SOCKET_AUTHORITY: &str = "localhost";

impl UpstreamUrl {
    /// Returns the URL of a host, with the port of the scheme unless `host` has one.
    #[must_use]
    pub fn host(protocol: Protocol, host: Authority) -> Self {
        let address = Address::Host(host);
        Self { protocol, address }
    }

    /// Returns the URL of a Unix socket, which speaks HTTP/1.1 or, with `is_http2`, HTTP/2. There is no TLS
    /// on it.
    #[must_use]
    pub fn socket(path: PathBuf, is_http2: bool) -> Self {
        let protocol = if is_http2 {
            Protocol::H2c
        } else {
            Protocol::Http
        };
        let address = Address::Socket(path);
        Self { protocol, address }
    }

    /// Returns the protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Returns whether the upstream is on this machine for certain: a Unix socket, a loopback address or
    /// `localhost` (RFC 6761 §6.3).
    #[must_use]
    pub fn is_local(&self) -> bool {
        match &self.address {
            Address::Socket(_) => true,
            Address::Host(_) => match self.host_name().parse() {
                Ok(std::net::IpAddr::V4(address)) => address.is_loopback(),
                Ok(std::net::IpAddr::V6(address)) => address.is_loopback(),
                Err(_) => self.host_name().eq_ignore_ascii_case("localhost"),
            },
        }
    }

    /// Returns the host without the brackets of an IPv6 address.
    pub(super) fn host_name(&self) -> &str {
        match &self.address {
            Address::Host(host) => host.host().trim_matches(['[', ']']),
            Address::Socket(_) => SOCKET_AUTHORITY,
        }
    }

    /// Returns the port that is connected to, or that of the scheme.
    pub(super) fn port(&self) -> u16 {
        let own = match &self.address {
            Address::Host(host) => host.port_u16(),
            Address::Socket(_) => None,
        };
        own.unwrap_or_else(|| self.protocol.port())
    }

    /// Returns the TCP port that is connected to, unless the upstream is a Unix socket.
    #[must_use]
    pub fn tcp_port(&self) -> Option<u16> {
        matches!(self.address, Address::Host(_)).then(|| self.port())
    }

    /// Returns whether the host is a name, which is looked up.
    #[must_use]
    pub fn is_named(&self) -> bool {
        matches!(self.address, Address::Host(_))
            && self.host_name().parse::<std::net::IpAddr>().is_err()
    }

    /// Returns the path of the Unix socket, if it is one.
    pub(super) fn path(&self) -> Option<&Path> {
        match &self.address {
            Address::Host(_) => None,
            Address::Socket(path) => Some(path),
        }
    }

    /// Returns the URL of requests: scheme and authority, and `/`.
    pub(super) fn request_url(&self) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(match self.protocol {
            Protocol::Https => Scheme::HTTPS,
            Protocol::Http | Protocol::H2c => Scheme::HTTP,
        });
        parts.authority = Some(match &self.address {
            Address::Host(host) => host.clone(),
            Address::Socket(_) => Authority::from_static(SOCKET_AUTHORITY),
        });
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
        Uri::from_parts(parts).expect("scheme, authority and path make a URL")
    }

    /// Returns whether both URLs name the same upstream. Host names have no case.
    #[must_use]
    pub fn is_same_upstream(&self, other: &Self) -> bool {
        self.path() == other.path()
            && self.host_name().eq_ignore_ascii_case(other.host_name())
            && self.port() == other.port()
    }
}

/// Returns whether the port in a URL is not a valid one. It would silently become that of the scheme without
/// this check.
#[must_use]
pub fn has_bad_port(authority: &Authority) -> bool {
    let written = authority.as_str().len() > authority.host().len();
    written && authority.port_u16().is_none_or(|port| port == 0)
}

impl Protocol {
    /// Returns the port of a URL without one.
    fn port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http | Self::H2c => 80,
        }
    }

    /// Returns whether requests are sent without TLS.
    #[must_use]
    pub fn is_plaintext(self) -> bool {
        self != Self::Https
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.address, self.protocol) {
            (Address::Host(host), Protocol::Https) => write!(f, "https://{host}/"),
            (Address::Host(host), Protocol::Http) => write!(f, "http://{host}/"),
            (Address::Host(host), Protocol::H2c) => write!(f, "h2c://{host}/"),
            (Address::Socket(path), Protocol::H2c) => write!(f, "unix+h2c:{}", path.display()),
            (Address::Socket(path), _) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(protocol: Protocol, host: &str) -> UpstreamUrl {
        UpstreamUrl::host(protocol, host.parse().unwrap())
    }

    #[test]
    fn a_url_is_displayed_as_it_is_written_and_has_the_port_of_its_scheme() {
        for (url, text, port, request) in [
            (
                host(Protocol::Https, "a:1"),
                "https://a:1/",
                1,
                "https://a:1/",
            ),
            (host(Protocol::Https, "a"), "https://a/", 443, "https://a/"),
            (
                host(Protocol::Http, "[::1]"),
                "http://[::1]/",
                80,
                "http://[::1]/",
            ),
            (host(Protocol::H2c, "a:2"), "h2c://a:2/", 2, "http://a:2/"),
            (
                UpstreamUrl::socket("/a".into(), false),
                "unix:/a",
                80,
                "http://localhost/",
            ),
            (
                UpstreamUrl::socket("/a".into(), true),
                "unix+h2c:/a",
                80,
                "http://localhost/",
            ),
        ] {
            assert_eq!(url.to_string(), text);
            assert_eq!(url.port(), port, "{text}");
            assert_eq!(url.request_url().to_string(), request);
        }
    }

    #[test]
    fn only_loopback_and_sockets_are_local_for_certain() {
        for (host_text, is_local) in [
            ("127.0.0.1:1", true),
            ("127.8.9.1", true),
            ("[::1]:1", true),
            ("LocalHost", true),
            ("localhost.example.org", false),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("[::ffff:127.0.0.1]", false),
            ("10.0.0.1", false),
            ("app", false),
        ] {
            let url = host(Protocol::Http, host_text);
            assert_eq!(url.is_local(), is_local, "{host_text}");
        }
        assert!(UpstreamUrl::socket("/a".into(), false).is_local());
    }
}
