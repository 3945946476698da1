//! Where a process listens: on sockets of its own, one for each core on the same address, so that
//! the kernel spreads connections over them; or on sockets that were passed to it.

mod bind;
mod inherited;

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use serve::listen::Queue;
use tracing::info;

use self::bind::Others;
pub use self::{
    bind::ListenError,
    inherited::{InheritError, Inherited},
};

/// A place to listen that was found usable, before anything else of the start that takes time.
#[derive(Debug)]
pub struct Place {
    cores: usize,
    sockets: Sockets,
}

#[derive(Debug)]
enum Sockets {
    Own(SocketAddr, Others),
    Inherited(Vec<TcpListener>),
}

/// Why there is nothing to listen on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Of `--listen`.
    #[error(transparent)]
    Address(#[from] ListenError),
    /// Of `LISTEN_FDS`.
    #[error(transparent)]
    Inherited(#[from] InheritError),
    /// The system has no more of something.
    #[error("cannot share a listening socket among the cores: {0}")]
    Share(io::Error),
}

impl Place {
    /// Sockets that were passed to this process, or else `address`, which other processes of this
    /// user may share if `reuse_port` says so; for `cores` to listen on.
    ///
    /// # Errors
    /// When the address is in use, not allowed, or not of this machine; when what was passed can't
    /// be listened on.
    pub fn find(
        inherited: Inherited,
        address: SocketAddr,
        reuse_port: bool,
        cores: usize,
    ) -> Result<Self, Error> {
        let others = match reuse_port {
            true => Others::Welcome,
            false => Others::Refused,
        };
        let sockets = match inherited.listeners()? {
            Some(passed) => {
                info!(
                    sockets = passed.len(),
                    "listening sockets were passed (LISTEN_FDS): --listen {address} is not used"
                );
                Sockets::Inherited(passed)
            }
            None => {
                bind::probe(address, others)?;
                Sockets::Own(address, others)
            }
        };
        Ok(Self { cores, sockets })
    }

    /// Returns the fate of the sockets' queues.
    #[must_use]
    pub fn queue(&self) -> Queue {
        match self.sockets {
            Sockets::Own(..) => Queue::Ends,
            Sockets::Inherited(_) => Queue::Outlives,
        }
    }

    /// Listens: one socket for each core. Sockets that were passed are spread over the cores, each
    /// shared by several if there are more cores; if there are fewer, each has a core of its own.
    ///
    /// # Errors
    /// As [`Self::find`]: somebody may have come since.
    pub fn listen(self) -> Result<Vec<TcpListener>, Error> {
        match self.sockets {
            Sockets::Own(address, others) => {
                if address.port() != 0 {
                    bind::probe(address, others)?;
                }
                Ok(bind::bind_each(address, self.cores)?)
            }
            Sockets::Inherited(passed) => spread(&passed, self.cores).map_err(Error::Share),
        }
    }
}

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

/// The addresses, each once, for the log.
///
/// # Errors
/// When a listener has none.
pub fn addresses(listeners: &[TcpListener]) -> io::Result<String> {
    let mut addresses = Vec::new();
    for listener in listeners {
        let address = listener.local_addr()?.to_string();
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
        assert_eq!(addresses(&listeners).unwrap(), format!("{a}, {b}"));
    }
}
