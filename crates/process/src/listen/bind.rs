//! The process's own sockets, one for each core on the same address (SO_REUSEPORT).

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

/// The most connections that the kernel queues for a busy core.
const BACKLOG: i32 = 1024;

/// An address that can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {reason}")]
pub struct ListenError {
    address: SocketAddr,
    reason: Reason,
}

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error(
        "the port is in use; stop the process that listens there, or choose another port with --listen; --reuse-port shares the port with an older process of this program"
    )]
    InUse,
    #[error(
        "the port is in use by another user's process, or by one that doesn't share it; stop it or choose another with --listen"
    )]
    NotShared,
    #[error(
        "not allowed to bind; ports below 1024 need the capability CAP_NET_BIND_SERVICE, or choose another with --listen"
    )]
    Permission,
    #[error("no interface of this machine has that address; choose another with --listen")]
    NoAddress,
    #[error("{0}")]
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

/// Checks that `address` can be listened on, without listening.
///
/// Cores share the address, so a second process of the same user could listen there unnoticed. That
/// is refused unless `others` are allowed.
pub(super) fn probe(address: SocketAddr, others: Others) -> Result<(), ListenError> {
    bind(address, others == Others::Allowed).map(drop)
}

/// Listens on `address` once for each of `cores`. On a machine without IPv6, `[::]` is `0.0.0.0`.
/// With port 0, all sockets have the port that the kernel chose for the first.
pub(super) fn bind_each(
    address: SocketAddr,
    cores: usize,
) -> Result<Vec<TcpListener>, ListenError> {
    let first = bind(address, true)?;
    let error = |error: io::Error| ListenError {
        address,
        reason: Reason::Other(error),
    };
    let address = first
        .local_addr()
        .map_err(error)?
        .as_socket()
        .expect("an IP socket");
    let mut sockets = vec![first];
    for _ in 1..cores {
        sockets.push(bind(address, true)?);
    }
    for socket in &sockets {
        socket.listen(BACKLOG).map_err(error)?;
    }
    Ok(sockets.into_iter().map(Into::into).collect())
}

/// Binds a socket. Falls back to IPv4 on a machine without IPv6.
fn bind(address: SocketAddr, reuse_port: bool) -> Result<Socket, ListenError> {
    match try_bind(address, reuse_port) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && has_no_such_address(&error) => {
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            try_bind(address, reuse_port).map_err(|error| (address, error))
        }
        bound => bound.map_err(|error| (address, error)),
    }
    .map_err(|(address, error)| ListenError {
        address,
        reason: Reason::of(error, reuse_port),
    })
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn all_cores_listen_on_one_port() {
        let listeners = bind_each(ANY, 3).unwrap();
        let ports: Vec<u16> = listeners
            .iter()
            .map(|listener| listener.local_addr().unwrap().port())
            .collect();
        assert_eq!(ports, [ports[0]; 3]);
    }

    #[test]
    fn a_port_in_use_is_refused_although_cores_share_it() {
        let listeners = bind_each(ANY, 1).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let error = probe(address, Others::Refused).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("cannot listen on {address}: the port is in use")),
            "{error}"
        );
        assert!(probe(address, Others::Allowed).is_ok());
    }

    #[test]
    fn a_port_of_a_process_that_does_not_share_it_is_refused() {
        let listener = TcpListener::bind(ANY).unwrap();
        let address = listener.local_addr().unwrap();
        let error = probe(address, Others::Allowed).unwrap_err().to_string();
        assert!(error.contains("by one that doesn't share it"), "{error}");
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let error = probe("192.0.2.1:0".parse().unwrap(), Others::Refused)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no interface of this machine has that address"),
            "{error}"
        );
    }
}
