//! Socket activation: listening sockets that whoever started this process made for it, as
//! sd_listen_fds(3) has it. They outlive the process, and with them the connections that wait there: a
//! process that stops leaves those to the next one ([`Queue::Outlives`](serve::listen::Queue::Outlives)).

use std::{io, net::TcpListener, process};

use listenfd::ListenFd;
use nix::sys::socket::{getsockopt, sockopt::AcceptConn};

/// More are a mistake.
const MAX: usize = 1000;

/// Listening sockets that were passed to this process; none, mostly.
#[derive(Debug, Default)]
pub struct Inherited(Option<Result<Vec<TcpListener>, InheritError>>);

/// Sockets that were passed and can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// Not a number of sockets.
    #[error(
        "LISTEN_FDS is {0:?}: expected how many sockets are passed, a whole number from 1 to {MAX}; unset it to listen on --listen"
    )]
    Count(String),
    /// Not what can be listened on.
    #[error(
        "socket {number} of LISTEN_FDS is no listening TCP socket: {error}; pass others (ListenStream=, and not Accept=yes), or unset LISTEN_FDS to listen on --listen"
    )]
    Socket {
        /// Which one, from 1.
        number: usize,
        /// Why not.
        error: io::Error,
    },
}

impl Inherited {
    /// Takes the sockets of `LISTEN_FDS`, if `LISTEN_PID` says that they are for this process, and
    /// both variables out of the environment, so that no child takes them for its own.
    ///
    /// Call it before there are other threads: they may read the environment meanwhile.
    #[must_use]
    pub fn take() -> Self {
        let variable = |name| std::env::var(name).ok();
        let ours = variable("LISTEN_PID").is_some_and(|pid| pid == process::id().to_string());
        let sockets = variable("LISTEN_FDS").map(|text| match text.parse() {
            Ok(count @ 1..=MAX) => {
                // It takes both variables away, and would take sockets that are for nobody in
                // particular: `ours` is ours to see to.
                let passed = ListenFd::from_env();
                if ours {
                    sockets(passed, count)
                } else {
                    Ok(Vec::new())
                }
            }
            _ => Err(InheritError::Count(text)),
        });
        Self(sockets.filter(|_| ours))
    }

    /// The sockets, if any were passed.
    pub(super) fn listeners(self) -> Result<Option<Vec<TcpListener>>, InheritError> {
        self.0.transpose()
    }
}

fn sockets(mut passed: ListenFd, count: usize) -> Result<Vec<TcpListener>, InheritError> {
    let socket = |index| {
        let listener = passed.take_tcp_listener(index).and_then(|listener| {
            let listener = listener.ok_or(io::ErrorKind::NotFound)?;
            match getsockopt(&listener, AcceptConn)? {
                true => Ok(listener),
                false => Err(io::Error::other("it does not listen")),
            }
        });
        let number = index + 1;
        listener.map_err(|error| InheritError::Socket { number, error })
    };
    (0..count).map(socket).collect()
}
