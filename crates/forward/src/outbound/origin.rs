//! An upstream as it was named, and the endpoints behind that name.

use std::{fmt, io, net::SocketAddr, sync::Arc};

use http::{HeaderValue, Uri, uri::Authority};
use rustls::pki_types::ServerName;
use tokio::net::lookup_host;

/// Scheme, host and port.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) url: Uri,
    /// What `Host` says of it.
    pub(super) host_field: HeaderValue,
    host: String,
    port: u16,
}

/// One endpoint: the addresses by which one server is reached, tried in this order. More than one
/// only where they are the same machine.
pub(super) type Addresses = Vec<SocketAddr>;

impl Origin {
    /// Of `url`, which is `https` and has a host.
    pub(super) fn new(url: &Uri) -> Self {
        let host = url.host().unwrap_or_default();
        let port = url.port_u16().unwrap_or(443);
        let field = match (url.authority().map(Authority::as_str), port) {
            (Some(authority), 443) => authority.trim_end_matches(":443"),
            (Some(authority), _) => authority,
            (None, _) => host,
        };
        Self {
            url: url.clone(),
            host_field: HeaderValue::from_str(field).unwrap_or(HeaderValue::from_static("")),
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
        }
    }

    /// The endpoints, if they are known without asking anybody.
    pub(super) fn literal(&self) -> Option<Vec<Addresses>> {
        let ip = self.host.parse().ok()?;
        Some(vec![vec![SocketAddr::new(ip, self.port)]])
    }

    /// The endpoints of this moment.
    pub(super) async fn resolve(&self) -> io::Result<Vec<Addresses>> {
        let found: Vec<_> = lookup_host((self.host.as_str(), self.port))
            .await?
            .collect();
        match found.is_empty() {
            true => Err(io::Error::new(io::ErrorKind::NotFound, "no address")),
            false => Ok(endpoints(found)),
        }
    }

    /// What TLS calls it. Who it is, its SPIFFE ID says.
    pub(super) fn server_name(&self) -> io::Result<ServerName<'static>> {
        ServerName::try_from(self.host.clone()).map_err(io::Error::other)
    }
}

/// Each address is an endpoint. But the two loopback addresses are one machine, and a server often
/// listens on one of them only: they are one endpoint.
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

/// Where something happened: the URL, and the addresses if they are not to be known from it.
#[derive(Clone, Debug)]
pub struct At(Arc<str>);

impl At {
    pub(super) fn new(url: &Uri, addresses: &[SocketAddr]) -> Self {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        Self(match addresses.is_empty() {
            true => url.to_string().into(),
            false => format!("{url} ({})", addresses.join(", ")).into(),
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
        Origin::new(&url.parse().unwrap())
    }

    #[test]
    fn each_address_is_an_endpoint_but_for_loopback_pairs() {
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
    }

    #[test]
    fn host_leaves_out_the_scheme_s_own_port() {
        for (url, field) in [
            ("https://localhost:8080/", "localhost:8080"),
            ("https://localhost", "localhost"),
            ("https://localhost:443", "localhost"),
            ("https://[::1]:8080", "[::1]:8080"),
        ] {
            assert_eq!(origin(url).host_field, field);
        }
    }

    #[test]
    fn says_the_address_where_it_is_given() {
        let url = "https://a:1".parse().unwrap();
        assert_eq!(At::new(&url, &[]).to_string(), "https://a:1/");
        let addresses = ["10.0.0.1:1", "[::1]:1"].map(|text| text.parse().unwrap());
        let at = At::new(&url, &addresses);
        assert_eq!(at.to_string(), "https://a:1/ (10.0.0.1:1, [::1]:1)");
    }
}
