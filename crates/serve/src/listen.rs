//! The listening socket of one core.

use tokio::net::TcpListener;

/// A listening socket and the fate of its queue.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
    /// The fate of the connections that still wait when the socket is closed.
    pub queue: Queue,
}

/// The fate of connections that wait to be accepted when this process closes their socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// The socket ends, and the kernel resets them. So they are accepted first.
    Ends,
    /// The socket was passed to this process and outlives it. They wait for the next process.
    Outlives,
}

impl From<TcpListener> for Listener {
    /// Takes a socket that is closed for good when this process closes it.
    fn from(socket: TcpListener) -> Self {
        let queue = Queue::Ends;
        Self { socket, queue }
    }
}
