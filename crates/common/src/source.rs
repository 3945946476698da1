//! The source of a connection, as the limits per source address count it.

use std::net::{IpAddr, Ipv6Addr};

/// Returns the network that the limits per source count. It is an IPv4 address, or the /64 of an IPv6
/// address, because one caller usually has all addresses of a /64.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_ipv6_network_are_one_source() {
        for (address, source) in [
            ("192.0.2.7", "192.0.2.7"),
            ("2001:db8::1", "2001:db8::"),
            ("2001:db8::ffff:1", "2001:db8::"),
            ("2001:db8:0:1::1", "2001:db8:0:1::"),
        ] {
            let source: IpAddr = source.parse().unwrap();
            assert_eq!(network(address.parse().unwrap()), source);
        }
    }
}
