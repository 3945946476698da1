//! A URL of an upstream, and the endpoints behind its name.

use std::{fmt, io, net::SocketAddr, sync::Arc};

use http::{HeaderValue, Uri};
use tokio::net::lookup_host;

use super::url::{Protocol, UpstreamUrl};

/// A URL of an upstream, and the values that each request to it needs.
#[derive(Debug)]
pub(super) struct Origin {
    /// Scheme and authority of requests.
    pub(super) url: Uri,
    /// The value of `Host`.
    pub(super) host_field: HeaderValue,
    pub(super) upstream: UpstreamUrl,
}

/// The addresses of one endpoint, tried in this order. There are several only where they are the same
/// machine, and none for a Unix socket.
pub(super) type Addresses = Vec<SocketAddr>;

/// The location of an endpoint.
#[derive(Debug)]
pub(super) struct Location {
    /// Distinguishes an endpoint from an earlier one at the same addresses.
    pub(super) id: u64,
    pub(super) origin: Arc<Origin>,
    pub(super) addresses: Addresses,
}

impl Location {
    /// Returns the name of the endpoint in errors. It has the address if there are `several`.
    pub(super) fn at(&self, several: bool) -> At {
        if several && self.origin.literal().is_none() {
            At::new(&self.origin, &self.addresses)
        } else {
            At::new(&self.origin, &[])
        }
    }
}

impl Origin {
    /// Returns the origin of a URL.
    pub(super) fn new(upstream: &UpstreamUrl) -> Self {
        let url = upstream.request_url();
        let authority = url.authority().map_or("", |authority| authority.as_str());
        let default_port = match upstream.protocol() {
            Protocol::Https => ":443",
            Protocol::Http | Protocol::H2c => ":80",
        };
        let field = authority.trim_end_matches(default_port);
        Self {
            host_field: HeaderValue::from_str(field).unwrap_or(HeaderValue::from_static("")),
            upstream: upstream.clone(),
            url,
        }
    }

    /// Returns the endpoints, if they are known without a look-up.
    pub(super) fn literal(&self) -> Option<Vec<Addresses>> {
        if self.upstream.path().is_some() {
            return Some(vec![Vec::new()]);
        }
        let ip = self.upstream.host_name().parse().ok()?;
        Some(vec![vec![SocketAddr::new(ip, self.upstream.port())]])
    }

    /// Looks the name up and returns its endpoints.
    pub(super) async fn resolve(&self) -> io::Result<Vec<Addresses>> {
        let name = (self.upstream.host_name(), self.upstream.port());
        let found: Vec<_> = lookup_host(name).await?.collect();
        if found.is_empty() {
            Err(io::Error::new(io::ErrorKind::NotFound, "no address"))
        } else {
            Ok(endpoints(found))
        }
    }
}

/// Groups addresses to endpoints. Each address is an endpoint, except that the two loopback addresses
/// are one endpoint, because a server often listens on one of them only.
fn endpoints(found: Vec<SocketAddr>) -> Vec<Addresses> {
    let mut endpoints: Vec<Addresses> = Vec::with_capacity(found.len());
    for address in found {
        if endpoints.iter().any(|known| known.contains(&address)) {
            continue;
        }
        let pair = |known: &&mut Addresses| {
            address.ip().is_loopback()
                && known
                    .iter()
                    .all(|known| known.ip().is_loopback() && known.is_ipv4() != address.is_ipv4())
        };
        match endpoints.iter_mut().find(pair) {
            Some(pair) => pair.push(address),
            None => endpoints.push(vec![address]),
        }
    }
    endpoints
}

/// The name of an endpoint in errors: its URL, and its addresses where the URL does not have them.
#[derive(Clone, Debug)]
pub struct At(Arc<str>);

impl At {
    pub(super) fn new(origin: &Origin, addresses: &[SocketAddr]) -> Self {
        let url = origin.upstream.to_string();
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        Self(if addresses.is_empty() {
            url.into()
        } else {
            format!("{url} ({})", addresses.join(", ")).into()
        })
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str) -> Origin {
        let (protocol, host) = match url.split_once("://").unwrap() {
            ("https", host) => (Protocol::Https, host),
            (_, host) => (Protocol::Http, host),
        };
        let host = host.trim_end_matches('/').parse().unwrap();
        Origin::new(&UpstreamUrl::host(protocol, host))
    }

    #[test]
    fn each_address_is_an_endpoint_and_a_loopback_pair_is_one() {
        for (found, expected) in [
            (
                &["10.0.0.1:1"] as &[&str],
                &[&["10.0.0.1:1"] as &[&str]] as &[&[&str]],
            ),
            (
                &["10.0.0.1:1", "10.0.0.2:1"],
                &[&["10.0.0.1:1"], &["10.0.0.2:1"]],
            ),
            (
                &["[fd00::1]:1", "10.0.0.1:1"],
                &[&["[fd00::1]:1"], &["10.0.0.1:1"]],
            ),
            (&["10.0.0.1:1", "10.0.0.1:1"], &[&["10.0.0.1:1"]]),
            (&["[::1]:1", "127.0.0.1:1"], &[&["[::1]:1", "127.0.0.1:1"]]),
            (&["127.0.0.1:1", "[::1]:1"], &[&["127.0.0.1:1", "[::1]:1"]]),
            (
                &["127.0.0.1:1", "127.0.0.2:1"],
                &[&["127.0.0.1:1"], &["127.0.0.2:1"]],
            ),
            (&["[::1]:1", "10.0.0.1:1"], &[&["[::1]:1"], &["10.0.0.1:1"]]),
        ] {
            let found = found.iter().map(|text| text.parse().unwrap()).collect();
            let texts: Vec<Vec<String>> = endpoints(found)
                .iter()
                .map(|one| one.iter().map(ToString::to_string).collect())
                .collect();
            assert_eq!(texts, expected);
        }
    }

    #[test]
    fn an_address_needs_no_resolver() {
        for (url, address) in [
            ("https://10.0.0.5:8080", "10.0.0.5:8080"),
            ("https://[::1]:8080/", "[::1]:8080"),
            ("https://10.0.0.5", "10.0.0.5:443"),
        ] {
            assert_eq!(
                origin(url).literal(),
                Some(vec![vec![address.parse().unwrap()]])
            );
        }
        assert_eq!(origin("https://localhost:8080").literal(), None);
        let socket = Origin::new(&UpstreamUrl::socket("/a".into(), false));
        assert_eq!(socket.literal(), Some(vec![vec![]]));
    }

    #[test]
    fn host_omits_the_port_of_the_scheme() {
        for (url, field) in [
            ("https://localhost:8080/", "localhost:8080"),
            ("https://localhost", "localhost"),
            ("https://localhost:443", "localhost"),
            ("https://[::1]:8080", "[::1]:8080"),
            ("https://localhost:80", "localhost:80"),
            ("http://localhost:80", "localhost"),
            ("http://localhost:443", "localhost:443"),
        ] {
            assert_eq!(origin(url).host_field, field);
        }
    }

    #[test]
    fn name_of_an_endpoint_has_the_addresses_that_are_given() {
        let url = origin("https://a:1");
        assert_eq!(At::new(&url, &[]).to_string(), "https://a:1/");
        let addresses = ["10.0.0.1:1", "[::1]:1"].map(|text| text.parse().unwrap());
        let at = At::new(&url, &addresses);
        assert_eq!(at.to_string(), "https://a:1/ (10.0.0.1:1, [::1]:1)");
    }
}
