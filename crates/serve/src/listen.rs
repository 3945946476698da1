//! The listening socket of one core, and the security of its connections.

use std::{io, sync::Arc};

use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::rustls::ServerConfig;
use tokio_util::either::Either;

use crate::stream::{PeerAddress, Stream};

/// A listening socket, and what happens to its queue when it is closed.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: Socket,
    /// The lifetime of the socket's queue.
    pub queue: Queue,
}

/// The lifetime of a queue of connections that wait to be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// The queue ends with this process. Its connections are accepted first, because the kernel would
    /// reset them.
    Ends,
    /// The queue outlives this process, because the socket was passed to it. Its connections wait for
    /// the next process.
    Outlives,
}

/// A listening socket.
#[derive(Debug)]
pub enum Socket {
    /// Listens on an IP address and port.
    Tcp(TcpListener),
    /// Listens on a Unix socket.
    Unix(UnixListener),
}

/// A listening socket that belongs to no runtime.
#[derive(Debug)]
pub enum StdSocket {
    /// Listens on an IP address and port.
    Tcp(std::net::TcpListener),
    /// Listens on a Unix socket.
    Unix(std::os::unix::net::UnixListener),
}

/// The security of the connections that a listener accepts.
#[derive(Clone, Debug)]
pub enum Security {
    /// TLS.
    Tls(Arc<ServerConfig>),
    /// There is no TLS, for callers on this machine. The first bytes of a connection show its version
    /// of HTTP.
    Plaintext,
}

impl From<Arc<ServerConfig>> for Security {
    fn from(tls: Arc<ServerConfig>) -> Self {
        Self::Tls(tls)
    }
}

impl Socket {
    /// Registers a socket with the current runtime.
    ///
    /// # Errors
    /// Fails when the socket can't be registered.
    pub fn from_std(socket: StdSocket) -> io::Result<Self> {
        match socket {
            StdSocket::Tcp(tcp) => TcpListener::from_std(tcp).map(Self::Tcp),
            StdSocket::Unix(unix) => UnixListener::from_std(unix).map(Self::Unix),
        }
    }

    /// Removes the socket from its runtime.
    pub(crate) fn into_std(self) -> io::Result<StdSocket> {
        match self {
            Self::Tcp(tcp) => tcp.into_std().map(StdSocket::Tcp),
            Self::Unix(unix) => unix.into_std().map(StdSocket::Unix),
        }
    }

    pub(crate) async fn accept(&self) -> io::Result<(Stream, PeerAddress)> {
        match self {
            Self::Tcp(tcp) => {
                let (stream, peer) = tcp.accept().await?;
                Ok((Either::Left(stream), peer.into()))
            }
            Self::Unix(unix) => {
                let (stream, _) = unix.accept().await?;
                let user = stream.peer_cred()?.uid();
                Ok((Either::Right(stream), PeerAddress::User(user)))
            }
        }
    }
}

impl From<TcpListener> for Listener {
    /// Converts a socket that no other process holds.
    fn from(socket: TcpListener) -> Self {
        let (socket, queue) = (Socket::Tcp(socket), Queue::Ends);
        Self { socket, queue }
    }
}
