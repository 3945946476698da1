//! The other end of the control socket.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use tokio::io::BufReader;
use tokio::net::UnixStream;

use super::lever::{Lever, Reply};
use super::{receive, send, trusted};
use crate::error::Error;

/// How long an agent may take, besides what it is asked to wait.
const DEADLINE: Duration = Duration::from_secs(30);

/// Moves a lever of the agent whose control socket is at `path`, and waits until that is done.
///
/// # Errors
///
/// [`Error::Control`] if no agent answers there that may be believed; a lever that the
/// agent refuses is a [`Reply`].
pub async fn ask(path: &Path, lever: &Lever) -> Result<Reply, Error> {
    let failed = |reason: String| Error::Control {
        path: path.to_owned(),
        reason,
    };
    let mut stream = UnixStream::connect(path)
        .await
        .map(BufReader::new)
        .map_err(|error| failed(advice(&error)))?;
    // In a directory such as /tmp, anybody may have made a socket of that name.
    let peer = stream.get_ref().peer_cred();
    let uid = peer.map_err(|error| failed(error.to_string()))?.uid();
    if !nix::unistd::geteuid().is_root() && !trusted(uid) {
        return Err(failed(format!(
            "who listens there is user {uid}, and not you; start an agent of your own"
        )));
    }
    // An agent that refuses us does not read first; its answer says more than this error.
    let sent = send(stream.get_mut(), lever).await;
    let reply = receive(&mut stream, lever.wait() + DEADLINE).await;
    reply.map_err(|error| failed(format!("no answer: {}", sent.err().unwrap_or(error))))
}

fn advice(error: &std::io::Error) -> String {
    let what = match error.kind() {
        ErrorKind::NotFound => {
            "no socket is there; start dev-agent, or name the socket of the one that runs with --socket"
        }
        ErrorKind::ConnectionRefused => {
            "nobody listens there any more; start dev-agent again, or name the socket of the one that runs with --socket"
        }
        ErrorKind::PermissionDenied => "only the user who runs the agent and root may",
        _ => return error.to_string(),
    };
    what.to_owned()
}
