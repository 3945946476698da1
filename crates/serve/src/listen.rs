//! The listening socket of one core.

use tokio::net::TcpListener;

/// A listening socket, and what happens to its queue when it is closed.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: TcpListener,
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

impl From<TcpListener> for Listener {
    /// Converts a socket that no other process holds.
    fn from(socket: TcpListener) -> Self {
        let queue = Queue::Ends;
        Self { socket, queue }
    }
}
