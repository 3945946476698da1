//! The process's own sockets, one for each core on the same address (SO_REUSEPORT).

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

/// The most connections that the kernel queues for a busy core.
const BACKLOG: i32 = 1024;

/// An IP address that can be listened on.
#[derive(Debug)]
pub(super) struct IpAddress {
    /// The flag that names it.
    flag: &'static str,
    address: SocketAddr,
    others: Others,
}

/// An address that can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", reason.text(flag))]
pub struct ListenError {
    flag: &'static str,
    address: SocketAddr,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    InUse,
    NotShared,
    Permission,
    NoAddress,
    Other(io::Error),
}

/// The other processes that may listen on the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// No process.
    Refused,
    /// Processes of the same user that share it too, such as the one that this one replaces.
    Allowed,
}

impl IpAddress {
    /// Checks that `address`, which `flag` names, can be listened on.
    ///
    /// Cores share the address, so a second process of the same user could listen there unnoticed. That
    /// is refused unless `others` are allowed.
    pub(super) fn claim(
        flag: &'static str,
        address: SocketAddr,
        others: Others,
    ) -> Result<Self, ListenError> {
        let claimed = Self {
            flag,
            address,
            others,
        };
        claimed.probe()?;
        Ok(claimed)
    }

    /// Listens once for each of `cores`. On a machine without IPv6, `[::]` is `0.0.0.0`. If the port is 0,
    /// all sockets have the port that the kernel chose for the first.
    pub(super) fn listen(mut self, cores: usize) -> Result<Vec<TcpListener>, ListenError> {
        if self.address.port() != 0 {
            self.probe()?;
        }
        let first = self.bind(true)?;
        let bound = first
            .local_addr()
            .map_err(|error| self.error(Reason::Other(error)))?;
        self.address = bound.as_socket().expect("an IP socket");
        let mut sockets = vec![first];
        for _ in 1..cores {
            sockets.push(self.bind(true)?);
        }
        for socket in &sockets {
            socket
                .listen(BACKLOG)
                .map_err(|error| self.error(Reason::Other(error)))?;
        }
        Ok(sockets.into_iter().map(Into::into).collect())
    }

    /// Checks that the address can be listened on, without listening.
    fn probe(&self) -> Result<(), ListenError> {
        self.bind(self.others == Others::Allowed).map(drop)
    }

    /// Binds a socket. Falls back to IPv4 on a machine without IPv6.
    fn bind(&self, reuse_port: bool) -> Result<Socket, ListenError> {
        match try_bind(self.address, reuse_port) {
            Err(error) if self.is_any_ipv6() && has_no_such_address(&error) => {
                let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.address.port()));
                let bound = try_bind(address, reuse_port);
                bound
                    .map_err(|error| Self { address, ..*self }.error(Reason::of(error, reuse_port)))
            }
            bound => bound.map_err(|error| self.error(Reason::of(error, reuse_port))),
        }
    }

    fn is_any_ipv6(&self) -> bool {
        self.address.ip() == Ipv6Addr::UNSPECIFIED
    }

    fn error(&self, reason: Reason) -> ListenError {
        ListenError {
            flag: self.flag,
            address: self.address,
            reason,
        }
    }
}

fn try_bind(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn has_no_such_address(error: &io::Error) -> bool {
    use nix::errno::Errno::{EADDRNOTAVAIL, EAFNOSUPPORT};
    [EAFNOSUPPORT, EADDRNOTAVAIL]
        .iter()
        .any(|&errno| error.raw_os_error() == Some(errno as i32))
}

impl Reason {
    fn of(error: io::Error, reuse_port: bool) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse if reuse_port => Self::NotShared,
            io::ErrorKind::AddrInUse => Self::InUse,
            io::ErrorKind::PermissionDenied => Self::Permission,
            _ if has_no_such_address(&error) => Self::NoAddress,
            _ => Self::Other(error),
        }
    }

    /// Returns the text, with the flag that chooses another address.
    fn text(&self, flag: &str) -> String {
        match self {
            Self::InUse => format!(
                "the port is in use; stop the process that listens there, or choose another port with {flag}; --reuse-port shares the port with an older process of this program"
            ),
            Self::NotShared => format!(
                "the port is in use by another user's process, or by one that doesn't share it; stop it or choose another with {flag}"
            ),
            Self::Permission => format!(
                "not allowed to bind; ports below 1024 need the capability CAP_NET_BIND_SERVICE, or choose another with {flag}"
            ),
            Self::NoAddress => {
                format!("no interface of this machine has that address; choose another with {flag}")
            }
            Self::Other(error) => error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    fn listening(cores: usize) -> Vec<TcpListener> {
        let claimed = IpAddress::claim("--listen", ANY, Others::Refused).unwrap();
        claimed.listen(cores).unwrap()
    }

    fn error(address: SocketAddr, others: Others) -> String {
        let claimed = IpAddress::claim("--here", address, others);
        claimed.unwrap_err().to_string()
    }

    #[test]
    fn all_cores_listen_on_one_port() {
        let listeners = listening(3);
        let ports: Vec<u16> = listeners
            .iter()
            .map(|listener| listener.local_addr().unwrap().port())
            .collect();
        assert_eq!(ports, [ports[0]; 3]);
    }

    #[test]
    fn a_port_in_use_is_refused_although_cores_share_it() {
        let listeners = listening(1);
        let address = listeners[0].local_addr().unwrap();
        let error = error(address, Others::Refused);
        assert!(
            error.starts_with(&format!("cannot listen on {address}: the port is in use")),
            "{error}"
        );
        assert!(
            error.contains("choose another port with --here;"),
            "{error}"
        );
        assert!(IpAddress::claim("--listen", address, Others::Allowed).is_ok());
    }

    #[test]
    fn a_port_of_a_process_that_does_not_share_it_is_refused() {
        let listener = TcpListener::bind(ANY).unwrap();
        let address = listener.local_addr().unwrap();
        let error = error(address, Others::Allowed);
        assert!(error.contains("by one that doesn't share it"), "{error}");
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let error = error("192.0.2.1:0".parse().unwrap(), Others::Refused);
        assert!(
            error.contains("no interface of this machine has that address"),
            "{error}"
        );
    }
}
