//! The socket of a connection: TCP, or a Unix socket.

use std::{io, net::SocketAddr};

use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

use crate::tcp::set_options;

/// An accepted connection: TCP on the left, a Unix socket on the right.
pub(crate) type Stream = Either<TcpStream, UnixStream>;

/// An accepted connection that belongs to no runtime.
pub(crate) type StdStream = Either<std::net::TcpStream, std::os::unix::net::UnixStream>;

/// The address of a connection's peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerAddress {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A process on this machine, by the Unix user ID that it had when it connected.
    User(u32),
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

/// Registers a connection with the current runtime.
pub(crate) fn from_std(stream: StdStream) -> io::Result<Stream> {
    match stream {
        Either::Left(tcp) => TcpStream::from_std(tcp).map(Either::Left),
        Either::Right(unix) => UnixStream::from_std(unix).map(Either::Right),
    }
}

/// Removes a connection from its runtime.
pub(crate) fn into_std(stream: Stream) -> io::Result<StdStream> {
    match stream {
        Either::Left(tcp) => tcp.into_std().map(Either::Left),
        Either::Right(unix) => unix.into_std().map(Either::Right),
    }
}

/// Sets the options of every connection ([`set_options`]). A Unix socket needs none.
pub(crate) fn prepare(stream: &Stream) -> io::Result<()> {
    match stream {
        Either::Left(tcp) => set_options(tcp),
        Either::Right(_) => Ok(()),
    }
}
