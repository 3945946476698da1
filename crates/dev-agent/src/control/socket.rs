//! The agent's end of the control socket.

use std::{
    convert::Infallible,
    path::{Path, absolute},
    pin::pin,
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use nix::unistd::geteuid;
use tokio::{
    io::BufReader,
    net::{UnixListener, UnixStream, unix::UCred},
    time::sleep,
};
use tracing::{debug, info, warn};

use super::{
    channel::{LINE_DEADLINE, is_trusted, receive, send},
    command::Reply,
    execute::Executor,
};
use crate::{
    agent::DevAgent,
    error::Error,
    listen::{Access, SocketFile},
    throttle::Throttle,
};

/// The most commands at once.
const MAX_CONNECTIONS: usize = 16;
/// The wait after a failed accept, for instance when file descriptors run out.
const BACKOFF: Duration = Duration::from_millis(500);

/// A control socket that listens. Dropping it removes its file.
#[derive(Debug)]
pub struct ControlSocket {
    // The file is dropped first, because it is certainly ours only while we listen.
    _file: SocketFile,
    listener: UnixListener,
}

impl ControlSocket {
    /// Makes the socket. Connections wait until [`Self::serve`] is polled.
    ///
    /// # Errors
    /// Fails when the path is taken or can't be used.
    pub async fn bind(path: &Path) -> Result<Self, Error> {
        let path = absolute(path).map_err(|source| Error::Listen {
            path: path.to_owned(),
            source,
        })?;
        let (file, listener) = SocketFile::bind(&path, Access::Owner).await?;
        debug!("controlled by {}", path.display());
        Ok(Self {
            _file: file,
            listener,
        })
    }

    /// Executes the commands that arrive, for as long as the future is polled.
    pub async fn serve(self, agent: &DevAgent) -> Infallible {
        let executor = Executor::new(agent);
        let failures = Throttle::default();
        let mut connections = FuturesUnordered::new();
        loop {
            let mut accepted = pin!(self.accept(&failures));
            let stream = tokio::select! {
                Some(()) = connections.next() => continue,
                stream = accepted.as_mut() => stream,
            };
            let full = connections.len() >= MAX_CONNECTIONS;
            connections.push(connection(stream, &executor, full));
        }
    }

    async fn accept(&self, failures: &Throttle) -> UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                Err(error) => {
                    failures.log(|| warn!(%error, "control socket: cannot accept"));
                    sleep(BACKOFF).await;
                }
            }
        }
    }
}

/// Serves one connection from its credentials to its reply.
async fn connection(stream: UnixStream, executor: &Executor<'_>, full: bool) {
    let mut stream = BufReader::new(stream);
    let reply = match admit(stream.get_ref(), full) {
        Ok(peer) => {
            let reply = match receive(&mut stream, LINE_DEADLINE).await {
                Ok(command) => executor.execute(command).await,
                Err(reason) => Reply::Refused(format!("not a command: {reason}")),
            };
            let (pid, uid) = (peer.pid(), peer.uid());
            match &reply {
                Reply::Done(done) => info!(pid, uid, "ctl: {done}"),
                Reply::Refused(reason) => warn!(pid, uid, reason, "ctl: refused"),
                Reply::Status(_) | Reply::Bundle(_) => {}
            }
            reply
        }
        Err(reason) => Reply::Refused(reason),
    };
    if let Err(error) = send(stream.get_mut(), &reply).await {
        debug!(%error, "ctl: the reply cannot be sent");
    }
}

/// Admits only our own user and root, whatever the file's mode is now.
fn admit(stream: &UnixStream, full: bool) -> Result<UCred, String> {
    let peer = stream
        .peer_cred()
        .map_err(|error| format!("the kernel does not say who you are: {error}"))?;
    if !is_trusted(peer.uid()) {
        let (owner, uid) = (geteuid(), peer.uid());
        warn!(pid = peer.pid(), uid, "ctl: refused, as it is another user");
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
