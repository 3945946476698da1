//! The address to listen on, and the flag that names it.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

/// An address to listen on: an IP address and port, or a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and port.
    Ip(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Returns whether only processes on this machine reach the address: loopback, or a Unix socket.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Ip(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Returns the address as the value of a flag. Sockets that are passed in its place may be any.
    #[must_use]
    pub fn of_flag(&self, name: &'static str) -> ListenFlag<'_> {
        ListenFlag {
            name,
            address: self,
            is_local_only: false,
        }
    }
}

/// The flag that names the address to listen on.
#[derive(Clone, Copy, Debug)]
pub struct ListenFlag<'a> {
    /// The name of the flag.
    pub name: &'static str,
    /// The value of the flag.
    pub address: &'a ListenAddress,
    /// Set if sockets that are passed in its place must be local too.
    pub is_local_only: bool,
}

impl fmt::Display for ListenFlag<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.address)
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected an IP address and a port, for example 127.0.0.1:15001, or a Unix socket, for example unix:/run/client.sock";
        let Some(path) = text.strip_prefix("unix:") else {
            let address = text.parse().map(Self::Ip);
            return address.map_err(|_| EXPECTED.to_owned());
        };
        socket_path(path)
            .map(Self::Unix)
            .ok_or_else(|| EXPECTED.to_owned())
    }
}

/// Parses what follows `unix:`, which is an absolute path. If it is a URL, an empty authority is before the
/// path.
pub(crate) fn socket_path(text: &str) -> Option<PathBuf> {
    let path = PathBuf::from(text.strip_prefix("//").unwrap_or(text));
    path.is_absolute().then_some(path)
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_an_ip_address_and_port_or_a_unix_socket() {
        for (text, shown, is_local) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("[::1]:1", "[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:1", true),
            ("[::]:1", "[::]:1", false),
            ("0.0.0.0:1", "0.0.0.0:1", false),
            ("10.0.0.1:1", "10.0.0.1:1", false),
            ("unix:/run/a.sock", "unix:/run/a.sock", true),
            ("unix:///run/a.sock", "unix:/run/a.sock", true),
        ] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(
                (address.to_string().as_str(), address.is_local()),
                (shown, is_local)
            );
        }
        for text in [
            "",
            "localhost:1",
            "127.0.0.1",
            "unix:",
            "unix:a",
            "unix://a/b",
        ] {
            let error = text.parse::<ListenAddress>().unwrap_err();
            assert!(error.contains("expected"), "{text}");
        }
    }
}
