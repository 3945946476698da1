//! Socket activation: the parent of this process passes listening sockets to it (sd_listen_fds(3)).
//!
//! Such sockets outlive the process, and so do the connections that wait there. A process that
//! stops leaves those to the next one ([`Queue::Outlives`](serve::listen::Queue::Outlives)).

use std::{io, net::TcpListener, process};

use listenfd::ListenFd;
use nix::sys::socket::{getsockopt, sockopt::AcceptConn};

/// The most sockets. A larger number is a mistake.
const MAX: usize = 1000;

/// The listening sockets that were passed to this process, if any.
#[derive(Debug, Default)]
pub struct Inherited(Option<Result<Vec<TcpListener>, InheritError>>);

/// The reason why the passed sockets can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// `LISTEN_FDS` is not a number of sockets.
    #[error(
        "LISTEN_FDS is {0:?}: expected how many sockets are passed, a whole number from 1 to {MAX}, or unset LISTEN_FDS"
    )]
    Count(String),
    /// A socket can't be listened on.
    #[error(
        "socket {number} of LISTEN_FDS is not a listening TCP socket: {error}; pass others (ListenStream=, and not Accept=yes), or unset LISTEN_FDS"
    )]
    Socket {
        /// The number of the socket, from 1.
        number: usize,
        /// The reason.
        error: io::Error,
    },
}

impl Inherited {
    /// Takes the sockets of `LISTEN_FDS`, if `LISTEN_PID` names this process. Removes both
    /// variables from the environment, so that no child takes the sockets for its own.
    ///
    /// This must be called before there are other threads, because they may read the environment.
    #[must_use]
    pub fn take() -> Self {
        let variable = |name| std::env::var(name).ok();
        let ours = variable("LISTEN_PID").is_some_and(|pid| pid == process::id().to_string());
        let sockets = variable("LISTEN_FDS").map(|text| match text.parse() {
            Ok(count @ 1..=MAX) => {
                // This removes both variables. It also accepts sockets without LISTEN_PID, so the
                // check of `ours` remains to be done here.
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

    /// Returns the sockets, if any were passed.
    pub(super) fn listeners(self) -> Result<Option<Vec<TcpListener>>, InheritError> {
        self.0.transpose()
    }
}

/// Takes the passed sockets, and checks that each listens.
fn sockets(mut passed: ListenFd, count: usize) -> Result<Vec<TcpListener>, InheritError> {
    let socket = |index| {
        let listener = passed.take_tcp_listener(index).and_then(|listener| {
            let listener = listener.ok_or(io::ErrorKind::NotFound)?;
            if getsockopt(&listener, AcceptConn)? {
                Ok(listener)
            } else {
                Err(io::Error::other("it does not listen"))
            }
        });
        let number = index + 1;
        listener.map_err(|error| InheritError::Socket { number, error })
    };
    (0..count).map(socket).collect()
}
