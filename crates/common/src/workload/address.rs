//! The address of a Workload API (SPIFFE Workload Endpoint §4).
//!
//! The parser is stricter than that of the `spiffe` crate. That one normalises `..`, does not decode
//! `%20`, and accepts `tcp:` without `//` and cleartext TCP to other machines.

use std::{
    ffi::OsString,
    fmt,
    net::SocketAddr,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
    str::FromStr,
};

/// The address that a Workload API listens on: a Unix socket, or a TCP port of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The path of a Unix socket, from `unix:///absolute/path`.
    Unix(PathBuf),
    /// A loopback address, from `tcp://127.0.0.1:port` or `tcp://[::1]:port`.
    Tcp(SocketAddr),
}

/// The error of a text that is not a Workload API address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}; expected for example unix:///tmp/agent.sock")]
pub struct AddressError {
    rule: &'static str,
}

/// The longest socket path, in bytes: `sun_path` has 108 with the final NUL (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

impl Address {
    fn unix(rest: &str) -> Result<Self, &'static str> {
        let path = match rest.strip_prefix("//") {
            Some(path) if !path.starts_with('/') && !path.is_empty() => {
                return Err("a unix address has no host part: three slashes");
            }
            Some(path) => path,
            None => rest,
        };
        if !path.starts_with('/') {
            return Err("the socket path must be absolute");
        }
        if path.ends_with('/') {
            return Err("the socket path is missing");
        }
        if !escapes_are_whole(path) {
            return Err("a % in the socket path is followed by two hexadecimal digits (RFC 3986)");
        }
        let path: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
        if path.contains(&0) {
            return Err("the socket path holds a NUL byte");
        }
        if path.len() > MAX_SOCKET_PATH {
            return Err(
                "the socket path is longer than 107 bytes, which is all that the kernel takes",
            );
        }
        Ok(Self::Unix(OsString::from_vec(path).into()))
    }

    fn tcp(rest: &str) -> Result<Self, &'static str> {
        let address: SocketAddr = rest
            .strip_prefix("//")
            .and_then(|authority| authority.parse().ok())
            .ok_or("a tcp address is an IP address and a port, as tcp://127.0.0.1:8000")?;
        match address {
            address if address.port() == 0 => Err("port 0 can't be connected to"),
            address if !address.ip().is_loopback() => Err(
                "private keys would cross the network in clear: a tcp address must be of this machine",
            ),
            address => Ok(Self::Tcp(address)),
        }
    }
}

fn escapes_are_whole(path: &str) -> bool {
    let mut after = path.split('%').skip(1).map(str::as_bytes);
    after.all(|rest| rest.len() >= 2 && rest[..2].iter().all(u8::is_ascii_hexdigit))
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let parse = || {
            let (scheme, rest) = text.split_once(':').ok_or(match text {
                "" => "the address is empty",
                _ => "the scheme is missing",
            })?;
            if text.trim() != text {
                return Err("there is a space before or after the address");
            }
            if rest.contains(['?', '#']) {
                return Err("an address has no query and no fragment");
            }
            match scheme {
                scheme if scheme.eq_ignore_ascii_case("unix") => Self::unix(rest),
                scheme if scheme.eq_ignore_ascii_case("tcp") => Self::tcp(rest),
                _ => Err("the scheme must be unix or tcp"),
            }
        };
        parse().map_err(|rule| AddressError { rule })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.as_os_str().as_bytes().escape_ascii()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_standard_are_accepted_w153() {
        for (number, text, path) in [
            ("W153", "unix:///tmp/agent.sock", "/tmp/agent.sock"),
            ("W153", "unix:/tmp/agent.sock", "/tmp/agent.sock"),
            ("W164", "UNIX:///tmp/agent.sock", "/tmp/agent.sock"),
            // The kernel resolves the path, because /a may be a symlink.
            ("W158 D44", "unix:///a/../b", "/a/../b"),
            ("W157 D43", "unix:///a%20b", "/a b"),
            ("W157 D43", "unix:///a b", "/a b"),
            ("W157", "unix:///%C3%A9", "/é"),
        ] {
            assert_eq!(
                text.parse(),
                Ok(Address::Unix(path.into())),
                "{number}: {text}"
            );
        }
        // "W159"
        for text in ["tcp://127.0.0.1:8000", "tcp://[::1]:8000"] {
            let address = text.parse::<Address>().unwrap();
            assert_eq!(address.to_string(), text);
        }
    }

    proptest::proptest! {
        /// Checks that no text panics, and that every address is a socket of this machine.
        #[test]
        fn any_text_is_an_address_of_this_machine_or_an_error_w165(
            text in "unix:(//)?/?([a.é -]|%00|%2f|[/?#%]?){0,5}|tcp:(//)?(127\\.0\\.0\\.1|10\\.0\\.0\\.1|\\[::1\\]|localhost)?(:[0-9]{1,5})?/?|[ -~]{0,12}",
        ) {
            match text.parse() {
                Ok(Address::Unix(path)) => {
                    let bytes = path.as_os_str().as_bytes();
                    assert!(path.is_absolute() && bytes.len() <= MAX_SOCKET_PATH && !bytes.contains(&0), "{text}");
                }
                Ok(Address::Tcp(address)) => assert!(address.ip().is_loopback() && address.port() != 0, "{text}"),
                Err(_) => {}
            }
        }

        /// Checks that a path is read as it was before it was percent-encoded.
        #[test]
        fn every_percent_encoded_path_is_accepted_w157(name in proptest::collection::vec(1_u8.., 1..30)) {
            let encoded: String = name.iter().map(|byte| format!("%{byte:02x}")).collect();
            let path = PathBuf::from(OsString::from_vec([b"/", &name[..]].concat()));
            assert_eq!(format!("unix:///{encoded}").parse(), Ok(Address::Unix(path)));
        }

        #[test]
        fn every_port_of_a_loopback_address_is_accepted_w159(port in 1_u16.., v6 in proptest::bool::ANY) {
            let ip = if v6 { "[::1]" } else { "127.0.0.1" };
            let text = format!("tcp://{ip}:{port}");
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn other_texts_are_errors_with_the_rule_and_an_example_w154() {
        let long = format!("unix:///{}", "a".repeat(107));
        let (tcp, host) = (
            "a tcp address is an IP address and a port, as tcp://127.0.0.1:8000",
            "a unix address has no host part: three slashes",
        );
        let cut = "a % in the socket path is followed by two hexadecimal digits (RFC 3986)";
        let clear =
            "private keys would cross the network in clear: a tcp address must be of this machine";
        for (number, text, rule) in [
            ("W152", "", "the address is empty"),
            ("W163", "/tmp/agent.sock", "the scheme is missing"),
            (
                "W163",
                "http:///tmp/agent.sock",
                "the scheme must be unix or tcp",
            ),
            ("W163", "npipe:agent", "the scheme must be unix or tcp"),
            (
                "W164 D42",
                " unix:///a ",
                "there is a space before or after the address",
            ),
            (
                "W164 D42",
                "unix:///a ",
                "there is a space before or after the address",
            ),
            (
                "W155",
                "unix:agent.sock",
                "the socket path must be absolute",
            ),
            ("W155", "unix:", "the socket path must be absolute"),
            ("W155", "unix://", "the socket path must be absolute"),
            ("W155 D38", "unix:///", "the socket path is missing"),
            ("W154 D37", "unix://agent.sock", host),
            ("W154 D37", "unix://a/agent.sock", host),
            ("W156", "unix://user@/a", host),
            (
                "W156",
                "unix:///a?b",
                "an address has no query and no fragment",
            ),
            (
                "W156",
                "unix:///a#b",
                "an address has no query and no fragment",
            ),
            ("W157", "unix:///a%00b", "the socket path holds a NUL byte"),
            ("W157", "unix:///a%2", cut),
            ("W157", "unix:///a%zzb", cut),
            (
                "W10",
                &long,
                "the socket path is longer than 107 bytes, which is all that the kernel takes",
            ),
            ("W161 D39", "tcp:127.0.0.1:8000", tcp),
            ("W162", "tcp://localhost:8000", tcp),
            ("W162", "tcp://127.0.0.1", tcp),
            ("W162", "tcp://127.0.0.1:8000/a", tcp),
            ("W160 D40", "tcp://127.0.0.1:8000/", tcp),
            ("W162 D41", "tcp://127.0.0.1:99999", tcp),
            ("W156", "tcp://user@127.0.0.1:8000", tcp),
            (
                "W162",
                "tcp://127.0.0.1:8000?a",
                "an address has no query and no fragment",
            ),
            ("W162", "tcp://127.0.0.1:0", "port 0 can't be connected to"),
            ("W165", "tcp://192.0.2.1:8000", clear),
            ("W165", "tcp://[2001:db8::1]:8000", clear),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert_eq!(error.rule, rule, "{number}: {text}");
            assert!(error.to_string().contains("unix:///tmp/agent.sock"));
        }
    }
}
