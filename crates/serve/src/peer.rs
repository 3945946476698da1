//! Who a connection comes from.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use common::source::network;
use http::HeaderValue;

/// A peer's address, written once for all of its requests: each has it in a log line.
#[derive(Clone, Debug)]
pub struct Peer(Arc<Written>);

#[derive(Debug)]
struct Written {
    source: IpAddr,
    address: String,
    ip: HeaderValue,
}

impl Peer {
    /// Returns the source that it is counted for where callers compete: its IPv4 address, or the /64
    /// of its IPv6 address.
    #[must_use]
    pub fn source(&self) -> IpAddr {
        self.0.source
    }

    /// Its IP address, as the value of a header field.
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
    fn written_as_addresses_are() {
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
