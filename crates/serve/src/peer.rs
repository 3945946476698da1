//! The peer of a connection.

use std::{
    fmt,
    future::pending,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

use common::source::network;
use http::HeaderValue;
use spiffe::SpiffeId;

use crate::{shutdown::Shutdown, stream::PeerAddress};

/// The peer of a connection: its address, and its identity if it has presented one.
///
/// Its texts are formatted once for all requests of the connection, because each request logs them.
/// That saves 2,900 of the 74,000 instructions that a request takes in the proxy
/// (`scripts/bench.sh --check`).
#[derive(Clone, Debug)]
pub struct Peer(Arc<Written>);

#[derive(Clone, Debug)]
struct Written {
    source: IpAddr,
    address: String,
    ip: HeaderValue,
    identity: Option<PeerIdentity>,
}

/// The identity of a peer that has presented an X.509-SVID.
#[derive(Clone, Debug)]
pub(crate) struct PeerIdentity {
    pub(crate) id: Arc<SpiffeId>,
    /// The expiry of the certificate.
    pub(crate) until: SystemTime,
    /// The end of the trust that verified it.
    pub(crate) trust_end: Option<Shutdown>,
}

impl PeerIdentity {
    /// Waits until the trust ends that verified the certificate.
    pub(crate) async fn distrusted(&self) {
        match &self.trust_end {
            Some(end) => end.clone().requested().await,
            None => pending().await,
        }
    }

    fn holds(&self) -> bool {
        let is_trusted = !self.trust_end.as_ref().is_some_and(Shutdown::is_requested);
        is_trusted && SystemTime::now() < self.until
    }
}

impl Peer {
    /// Returns the SPIFFE ID of the peer's X.509-SVID, if the peer has presented one that has not
    /// expired and no bundle has changed since.
    #[must_use]
    pub fn id(&self) -> Option<&Arc<SpiffeId>> {
        let identity = self.0.identity.as_ref()?;
        identity.holds().then_some(&identity.id)
    }

    /// Returns the expiry of the X.509-SVID that the peer has presented.
    #[must_use]
    pub fn id_until(&self) -> Option<SystemTime> {
        self.identity().map(|identity| identity.until)
    }

    pub(crate) fn identity(&self) -> Option<&PeerIdentity> {
        self.0.identity.as_ref()
    }

    /// Returns the peer with the identity that its handshake has verified.
    pub(crate) fn identified(mut self, identity: PeerIdentity) -> Self {
        Arc::make_mut(&mut self.0).identity = Some(identity);
        self
    }

    /// Returns the source that the limits count: the IPv4 address, or the /64 of the IPv6 address. All
    /// peers on a Unix socket are one source, as peers on loopback are.
    #[must_use]
    pub fn source(&self) -> IpAddr {
        self.0.source
    }

    /// Returns the IP address as the value of a header field. A Unix socket's is that of loopback.
    #[must_use]
    pub fn ip(&self) -> &HeaderValue {
        &self.0.ip
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        PeerAddress::from(address).into()
    }
}

impl From<PeerAddress> for Peer {
    fn from(address: PeerAddress) -> Self {
        let ip = address.ip();
        let text = HeaderValue::try_from(ip.to_string());
        Self(Arc::new(Written {
            source: network(ip),
            address: address.to_string(),
            ip: text.expect("visible ASCII"),
            identity: None,
        }))
    }
}

impl PeerAddress {
    /// Returns the IP address. A Unix socket's is that of loopback.
    pub(crate) fn ip(self) -> IpAddr {
        match self {
            Self::Ip(address) => address.ip(),
            Self::User(_) => Ipv4Addr::LOCALHOST.into(),
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::User(user) => write!(f, "unix:uid:{user}"),
        }
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
    fn a_peer_on_a_unix_socket_is_displayed_with_its_user() {
        let peer = Peer::from(PeerAddress::User(1000));
        assert_eq!(peer.to_string(), "unix:uid:1000");
        assert_eq!(peer.ip(), "127.0.0.1");
    }

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
