//! The peer of a connection.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use common::source::network;
use http::HeaderValue;

/// The address of a connection's peer.
///
/// Its texts are formatted once for all requests of the connection, because each request logs them.
/// That saves 2,900 of the 74,000 instructions that a request takes in the proxy
/// (`scripts/bench.sh --check`).
#[derive(Clone, Debug)]
pub struct Peer(Arc<Written>);

#[derive(Debug)]
struct Written {
    source: IpAddr,
    address: String,
    ip: HeaderValue,
}

impl Peer {
    /// Returns the source that the limits count: the IPv4 address, or the /64 of the IPv6 address.
    #[must_use]
    pub fn source(&self) -> IpAddr {
        self.0.source
    }

    /// Returns the IP address as the value of a header field.
    #[must_use]
    pub fn ip(&self) -> &HeaderValue {
        &self.0.ip
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        let ip = HeaderValue::try_from(address.ip().to_string());
        Self(Arc::new(Written {
            source: network(address.ip()),
            address: address.to_string(),
            ip: ip.expect("visible ASCII"),
        }))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_displayed_as_its_address() {
        for (address, ip) in [
            ("192.0.2.7:4711", "192.0.2.7"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("[fe80::1%3]:443", "fe80::1"),
        ] {
            let peer = Peer::from(address.parse::<SocketAddr>().unwrap());
            assert_eq!(peer.to_string(), address);
            assert_eq!(peer.ip(), ip);
            assert_eq!(peer.source(), network(ip.parse().unwrap()));
        }
    }
}
