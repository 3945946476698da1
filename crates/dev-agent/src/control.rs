//! The control socket: the levers of a running agent for another process of the
//! same user, or root's.
//!
//! One connection, one lever: a line of JSON in, a line of JSON out. The kernel says
//! who is at the other end, on both sides.

mod ask;
mod lever;

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf, absolute};
use std::pin::pin;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use nix::unistd::geteuid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};

use crate::agent::DevAgent;
use crate::error::Error;
use crate::listen::{self, Access, SocketFile};

pub use ask::ask;
use lever::Levers;
pub use lever::{Lever, MAX_WAIT, Reply};

/// A bundle document of 1 MiB as a JSON string, each byte escaped, and some room.
const MAX_LINE: u64 = (2 << 20) + (4 << 10);
/// How long a peer may take to send its line, or to take ours.
const LINE_DEADLINE: Duration = Duration::from_secs(5);
/// How many levers may be in the works.
const MAX_CONNECTIONS: usize = 16;
/// The wait after a failed accept, for instance when file descriptors run out.
const BACKOFF: Duration = Duration::from_millis(500);

/// The control socket of the agent whose Workload API is at `socket`, where nothing
/// else was agreed: `agent.sock` → `agent.sock.ctl`.
#[must_use]
pub fn path_beside(socket: &Path) -> PathBuf {
    let mut path = OsString::from(socket);
    path.push(".ctl");
    path.into()
}

/// Whether `path`, made absolute, is short enough for a socket.
#[must_use]
pub fn fits(path: &Path) -> bool {
    absolute(path).is_ok_and(|path| listen::fits(&path))
}

/// A control socket that listens; its file is removed when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    // Dropped first: the file's identity is certain only while we listen.
    _file: SocketFile,
    listener: UnixListener,
}

impl ControlSocket {
    /// Makes the socket. Whoever connects waits until [`Self::serve`] is polled.
    ///
    /// # Errors
    ///
    /// A path that is taken or cannot be used.
    pub async fn bind(path: &Path) -> Result<Self, Error> {
        let path = absolute(path).map_err(|source| Error::Listen {
            path: path.to_owned(),
            source,
        })?;
        let (file, listener) = SocketFile::bind(&path, Access::Owner).await?;
        tracing::debug!("controlled by {}", path.display());
        Ok(Self {
            _file: file,
            listener,
        })
    }

    /// Moves the levers of `agent` as it is told, for as long as it is polled.
    pub async fn serve(self, agent: &DevAgent) -> Infallible {
        let levers = Levers::new(agent);
        let mut connections = FuturesUnordered::new();
        loop {
            let mut accepted = pin!(self.accept());
            let stream = tokio::select! {
                Some(()) = connections.next() => continue,
                stream = accepted.as_mut() => stream,
            };
            let full = connections.len() >= MAX_CONNECTIONS;
            connections.push(connection(stream, &levers, full));
        }
    }

    async fn accept(&self) -> UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    tracing::warn!(%error, "control socket: cannot accept");
                    sleep(BACKOFF).await;
                }
            }
        }
    }
}

/// One connection from its credentials to its answer.
async fn connection(stream: UnixStream, levers: &Levers<'_>, full: bool) {
    let mut stream = BufReader::new(stream);
    let reply = match admit(stream.get_ref(), full) {
        Ok(peer) => {
            let reply = match receive(&mut stream, LINE_DEADLINE).await {
                Ok(lever) => levers.pull(lever).await,
                Err(reason) => Reply::Refused(format!("not a command: {reason}")),
            };
            let (pid, uid) = (peer.pid(), peer.uid());
            match &reply {
                Reply::Done(done) => tracing::info!(pid, uid, "ctl: {done}"),
                Reply::Refused(reason) => tracing::warn!(pid, uid, reason, "ctl: refused"),
                Reply::Status(_) => {}
            }
            reply
        }
        Err(reason) => Reply::Refused(reason),
    };
    if let Err(error) = send(stream.get_mut(), &reply).await {
        tracing::debug!(%error, "ctl: nobody took the answer");
    }
}

/// Lets in our own user and root, whatever has become of the file's mode.
fn admit(stream: &UnixStream, full: bool) -> Result<UCred, String> {
    let peer = stream
        .peer_cred()
        .map_err(|error| format!("the kernel does not say who you are: {error}"))?;
    if !trusted(peer.uid()) {
        let (owner, uid) = (geteuid(), peer.uid());
        tracing::warn!(pid = peer.pid(), uid, "ctl: refused, as it is another user");
        return Err(format!(
            "only user {owner}, who runs this agent, and root may control it; you are user {uid}"
        ));
    }
    if full {
        return Err(format!(
            "{MAX_CONNECTIONS} commands are in progress; wait for one to end"
        ));
    }
    Ok(peer)
}

/// Whether this user may move our levers, and we may believe what it says.
fn trusted(uid: u32) -> bool {
    [0, geteuid().as_raw()].contains(&uid)
}

/// Reads one line, or all up to the end, as JSON.
async fn receive<M: DeserializeOwned>(
    stream: &mut BufReader<UnixStream>,
    deadline: Duration,
) -> io::Result<M> {
    let mut line = Vec::new();
    let mut bounded = stream.take(MAX_LINE + 1);
    timeout(deadline, bounded.read_until(b'\n', &mut line))
        .await
        .map_err(|_| io::Error::other(format!("no line within {deadline:?}")))??;
    if line.is_empty() {
        let error = io::Error::other("the connection ended before a line");
        return Err(error);
    }
    if line.len() as u64 > MAX_LINE {
        let error = format!("the line is longer than {MAX_LINE} bytes");
        return Err(io::Error::other(error));
    }
    Ok(serde_json::from_slice(&line)?)
}

async fn send<M: Serialize>(stream: &mut UnixStream, message: &M) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    timeout(LINE_DEADLINE, stream.write_all(&line)).await?
}
