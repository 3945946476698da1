//! Routes: the peer and the audience of requests to a host.

use std::{fmt, str::FromStr};

use forward::outbound::UpstreamUrl;
use process::cli;
use rustls::pki_types::ServerName;
use spiffe::SpiffeId;

use crate::{
    peer::{PeerIdentity, server_name},
    web_pki::CaFile,
};

/// The route of requests to one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// The host of the requests; with a port only if the route has one. `None` is for every host.
    pub(crate) host: Option<String>,
    /// The URL of the peer that gets them.
    pub(crate) url: UpstreamUrl,
    /// The audiences of their tokens; at least one.
    pub(crate) audiences: Vec<String>,
    /// The identity that the peer must have.
    pub(crate) peer: PeerIdentity,
}

/// The parts of a route after its URL.
#[derive(Default)]
struct PeerParts {
    audience: Option<String>,
    server_id: Option<SpiffeId>,
    server_name: Option<ServerName<'static>>,
    ca: Option<CaFile>,
}

const EXAMPLE: &str = "expected for example 'orders.internal=https://lb.example.org:8443;audience=spiffe://example.org/orders;server-id=spiffe://example.org/proxy'";

impl Route {
    /// Returns the flag that names the peer's SPIFFE ID.
    pub(crate) fn flag(&self) -> &'static str {
        match self.host {
            Some(_) => "--route",
            None => "--server-id",
        }
    }

    /// Returns whether the route is for requests to `host`, which may have a port.
    pub(crate) fn is_for(&self, host: &str) -> bool {
        let Some(own) = &self.host else {
            return true;
        };
        let without_port = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        own.eq_ignore_ascii_case(host) || own.eq_ignore_ascii_case(without_port)
    }
}

impl FromStr for Route {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, rest) = text
            .split_once('=')
            .ok_or_else(|| error("a route has a host, = and a URL"))?;
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_host) {
            return Err(error(format!("{host:?} is not a host")));
        }
        let mut parts = rest.split(';');
        let url = cli::upstream(parts.next().unwrap_or_default())?;
        let mut peer = PeerParts::default();
        parts.try_for_each(|part| peer.add(part))?;
        let (peer, audience) = peer.whole()?;
        Ok(Self {
            host: Some(host.to_owned()),
            url,
            audiences: vec![audience],
            peer,
        })
    }
}

/// Returns the error about a route that breaks a rule.
fn error(rule: impl fmt::Display) -> String {
    format!("{rule}; {EXAMPLE}")
}

impl PeerParts {
    /// Adds a part such as `ca=FILE`.
    fn add(&mut self, part: &str) -> Result<(), String> {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let named = |error: String| format!("{key}: {error}");
        let is_repeated = match key {
            "audience" => {
                let audience = cli::audience(value).map_err(named)?;
                self.audience.replace(audience).is_some()
            }
            "server-id" => {
                let id = cli::workload_id(value).map_err(named)?;
                self.server_id.replace(id).is_some()
            }
            "server-name" => {
                let name = server_name(value).map_err(named)?;
                self.server_name.replace(name).is_some()
            }
            "ca" if value.is_empty() => return Err(error("ca needs a file, as in ca=/etc/ca.pem")),
            "ca" => {
                let ca = CaFile {
                    path: value.into(),
                    setting: "--route ca=",
                };
                self.ca.replace(ca).is_some()
            }
            _ => return Err(error(format!("{part:?} is not a part of a route"))),
        };
        if is_repeated {
            Err(error(format!("{key} is given twice")))
        } else {
            Ok(())
        }
    }

    /// Returns the identity of the peer, and the audience of tokens.
    fn whole(self) -> Result<(PeerIdentity, String), String> {
        match (self.server_id, self.server_name, self.ca, self.audience) {
            (Some(id), None, None, audience) => {
                let audience = audience.unwrap_or_else(|| id.to_string());
                Ok((PeerIdentity::SpiffeId(id), audience))
            }
            (None, Some(name), ca, Some(audience)) => {
                Ok((PeerIdentity::Name { name, ca }, audience))
            }
            (None, Some(_), _, None) => Err(error(
                "a route with server-name needs audience=, the SPIFFE ID of the server behind it",
            )),
            (Some(_), _, _, _) => Err(error(
                "server-id alone says who the peer must be; leave out server-name and ca",
            )),
            (None, None, _, _) => Err(error(
                "a route says who the peer must be: server-id or server-name",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "server-id=spiffe://example.org/proxy";

    #[test]
    fn a_route_has_a_host_a_url_and_a_peer() {
        let route: Route = format!("Orders.internal=https://lb:8443;{ID}")
            .parse()
            .unwrap();
        assert_eq!(route.host.as_deref(), Some("Orders.internal"));
        assert_eq!(route.url.to_string(), "https://lb:8443/");
        assert_eq!(route.audiences, ["spiffe://example.org/proxy"]);
        let text = "a=https://lb;audience=spiffe://example.org/b;server-name=lb.example.org;ca=/etc/ca.pem";
        let route: Route = text.parse().unwrap();
        assert_eq!(route.audiences, ["spiffe://example.org/b"]);
        let PeerIdentity::Name { ca: Some(ca), .. } = route.peer else {
            panic!("{route:?}");
        };
        assert_eq!(ca.path.to_str(), Some("/etc/ca.pem"));
    }

    #[test]
    fn a_route_is_for_its_host_with_any_port_or_with_its_own() {
        for (route, host, is_for) in [
            ("a", "a", true),
            ("a", "A:80", true),
            ("a", "a.b", false),
            ("a:80", "a:80", true),
            ("a:80", "a", false),
            ("a:80", "a:81", false),
            ("[::1]", "[::1]:80", true),
            ("[::1]", "[::1]", true),
            ("a", "", false),
        ] {
            let route: Route = format!("{route}=https://lb;{ID}").parse().unwrap();
            assert_eq!(route.is_for(host), is_for, "{route:?} {host}");
        }
    }

    #[test]
    fn a_route_that_is_not_whole_is_refused_with_an_example() {
        for (text, said) in [
            ("", "a route has a host"),
            ("a", "a route has a host"),
            ("=https://lb", "is not a host"),
            ("a/b=https://lb", "is not a host"),
            (
                "a=http://lb;server-name=lb",
                "http would send the token in clear",
            ),
            ("a=https://lb/path;server-name=lb", "no path"),
            ("a=https://lb", "says who the peer must be"),
            ("a=https://lb;server-name=lb", "needs audience="),
            ("a=https://lb;server-name=", "is not a host name"),
            (
                "a=https://lb;server-id=spiffe://a/b;server-name=c",
                "server-id alone",
            ),
            (
                "a=https://lb;server-id=spiffe://a/b;ca=c",
                "server-id alone",
            ),
            (
                "a=https://lb;server-id=spiffe://a/b;server-id=spiffe://a/b",
                "given twice",
            ),
            (
                "a=https://lb;audience=;server-id=spiffe://a/b",
                "audience: an audience must not be empty",
            ),
            ("a=https://lb;server-id=spiffe://a/b;x=y", "is not a part"),
            ("a=https://lb;server-name=b;ca=", "ca needs a file"),
            ("a=https://lb;server-name=b;ca", "ca needs a file"),
            ("a=https://lb;server-id=", "server-id: "),
            ("a=https://lb;server-name", "server-name: "),
        ] {
            let error = text.parse::<Route>().unwrap_err();
            assert!(
                error.contains(said) && error.contains("expected for example"),
                "{text}: {error}"
            );
        }
    }
}
