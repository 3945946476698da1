//! The listening sockets of a process: its own, or sockets that were passed to it. Its own are one for each core
//! on the same address, so that the kernel spreads connections over them.

mod address;
mod bind;
mod inherited;
mod unix;

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use serve::listen::{Queue, StdSocket};
use tracing::info;

pub(crate) use self::address::socket_path;
pub use self::{
    address::{ListenAddress, ListenFlag},
    bind::ListenError,
    inherited::{InheritError, Inherited},
    unix::UnixListenError,
};
use self::{
    bind::{IpAddress, Others},
    unix::UnixSocket,
};

/// An address or sockets that can be listened on. The claim comes before the slow parts of a start.
#[derive(Debug)]
pub struct ClaimedAddress {
    cores: usize,
    sockets: Sockets,
}

#[derive(Debug)]
enum Sockets {
    Own(IpAddress),
    Unix(UnixSocket),
    Inherited(Vec<TcpListener>),
}

/// The reason why there is nothing to listen on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The IP address can't be listened on.
    #[error(transparent)]
    Address(#[from] ListenError),
    /// The Unix socket can't be listened on.
    #[error(transparent)]
    Unix(#[from] UnixListenError),
    /// The sockets of `LISTEN_FDS` can't be listened on.
    #[error(transparent)]
    Inherited(#[from] InheritError),
    /// Other machines reach a socket of `LISTEN_FDS`.
    #[error(
        "socket {0} of LISTEN_FDS can be reached from other machines; pass one that listens on a loopback address"
    )]
    NotLocal(SocketAddr),
    /// A socket can't be duplicated.
    #[error("cannot share a listening socket among the cores: {0}")]
    Share(io::Error),
}

impl ClaimedAddress {
    /// Claims the sockets that were passed to this process, otherwise the address of `listen`, for `cores`.
    ///
    /// Other processes of this user may share the address if `reuse_port` is set.
    ///
    /// # Errors
    /// Fails when the address is in use, not allowed, or not of this machine. Fails when a passed
    /// socket can't be listened on, or when other machines reach it and must not.
    pub fn claim(
        inherited: Inherited,
        listen: ListenFlag<'_>,
        reuse_port: bool,
        cores: usize,
    ) -> Result<Self, Error> {
        let others = if reuse_port {
            Others::Allowed
        } else {
            Others::Refused
        };
        let sockets = match (inherited.listeners()?, listen.address) {
            (Some(passed), _) => {
                if listen.is_local_only {
                    check_local(&passed)?;
                }
                info!(
                    sockets = passed.len(),
                    "listening sockets were passed (LISTEN_FDS): {listen} is not used"
                );
                Sockets::Inherited(passed)
            }
            (None, ListenAddress::Ip(address)) => {
                Sockets::Own(IpAddress::claim(listen.name, *address, others)?)
            }
            (None, ListenAddress::Unix(path)) => {
                Sockets::Unix(UnixSocket::claim(listen.name, path)?)
            }
        };
        Ok(Self { cores, sockets })
    }

    /// Returns what happens to the sockets' queues when the process ends.
    #[must_use]
    pub fn queue(&self) -> Queue {
        match self.sockets {
            Sockets::Own(..) | Sockets::Unix(_) => Queue::Ends,
            Sockets::Inherited(_) => Queue::Outlives,
        }
    }

    /// Listens on one socket for each core. Passed sockets are spread over the cores: several cores
    /// share a socket if there are more cores. If there are fewer, each socket has its own core.
    ///
    /// # Errors
    /// Fails like [`Self::claim`], because another process may have taken the address since.
    pub fn listen(self) -> Result<Vec<StdSocket>, Error> {
        match self.sockets {
            Sockets::Own(address) => {
                let sockets = address.listen(self.cores)?;
                Ok(sockets.into_iter().map(StdSocket::Tcp).collect())
            }
            Sockets::Unix(socket) => Ok(socket.listen(self.cores)?),
            Sockets::Inherited(passed) => {
                let sockets = spread(&passed, self.cores).map_err(Error::Share)?;
                Ok(sockets.into_iter().map(StdSocket::Tcp).collect())
            }
        }
    }
}

/// Checks that only processes on this machine reach the sockets that were passed.
fn check_local(passed: &[TcpListener]) -> Result<(), Error> {
    for socket in passed {
        let address = socket.local_addr().map_err(Error::Share)?;
        if !ListenAddress::from(address).is_local() {
            return Err(Error::NotLocal(address));
        }
    }
    Ok(())
}

/// Duplicates the passed sockets, so that each core has one.
fn spread(passed: &[TcpListener], cores: usize) -> io::Result<Vec<TcpListener>> {
    let listeners = passed.iter().cycle().take(cores.max(passed.len()));
    listeners
        .map(|listener| {
            let listener = listener.try_clone()?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })
        .collect()
}

/// Returns the addresses for the log, each once.
///
/// # Errors
/// Fails when a listener has no address.
pub fn addresses(listeners: &[StdSocket]) -> io::Result<String> {
    let mut addresses = Vec::new();
    for listener in listeners {
        let address = match listener {
            StdSocket::Tcp(tcp) => tcp.local_addr()?.to_string(),
            StdSocket::Unix(unix) => unix::display(&unix.local_addr()?),
        };
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_sockets_are_spread_over_the_cores() {
        let passed: Vec<_> = (0..2)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let [a, b] = [0, 1].map(|n: usize| passed[n].local_addr().unwrap());
        for (sockets, cores, spread_to) in [
            (1, 3, vec![a, a, a]),
            (2, 3, vec![a, b, a]),
            (2, 2, vec![a, b]),
            (2, 1, vec![a, b]),
        ] {
            let listeners = spread(&passed[..sockets], cores).unwrap();
            let found: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
            assert_eq!(found, spread_to, "{sockets} on {cores}");
        }
        let listeners = spread(&passed, 3).unwrap();
        let listeners: Vec<_> = listeners.into_iter().map(StdSocket::Tcp).collect();
        assert_eq!(addresses(&listeners).unwrap(), format!("{a}, {b}"));
    }
}
