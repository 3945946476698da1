//! The end of the control socket that sends commands.

use std::{io::ErrorKind, path::Path, time::Duration};

use tokio::{io::BufReader, net::UnixStream};

use super::{
    channel::{is_trusted, receive, send},
    command::{Command, Reply},
};
use crate::error::Error;

/// The longest time for an agent to reply, in addition to the wait of the command.
const DEADLINE: Duration = Duration::from_secs(30);

/// Sends a command to the agent whose control socket is at `path`, and waits until it is done.
///
/// # Errors
/// Fails with [`Error::Control`] if no trusted agent answers there. A refusal by the agent is a
/// [`Reply`].
pub async fn ask(path: &Path, command: &Command) -> Result<Reply, Error> {
    let failed = |reason: String| Error::Control {
        path: path.to_owned(),
        reason,
    };
    let mut stream = UnixStream::connect(path)
        .await
        .map(BufReader::new)
        .map_err(|error| failed(advice(&error)))?;
    // Any user may have made a socket of that name in a directory such as /tmp.
    let peer = stream.get_ref().peer_cred();
    let uid = peer.map_err(|error| failed(error.to_string()))?.uid();
    if !nix::unistd::geteuid().is_root() && !is_trusted(uid) {
        return Err(failed(format!(
            "its owner is user {uid}, and not you; start an agent of your own"
        )));
    }
    // An agent that refuses us does not read the command. Its reply says more than this error.
    let sent = send(stream.get_mut(), command).await;
    let reply = receive(&mut stream, command.wait() + DEADLINE).await;
    reply.map_err(|error| failed(format!("no answer: {}", sent.err().unwrap_or(error))))
}

/// Returns the remedy for a failed connection.
fn advice(error: &std::io::Error) -> String {
    let what = match error.kind() {
        ErrorKind::NotFound => {
            "no socket is there; start dev-agent, or name the socket of the one that runs with --socket"
        }
        ErrorKind::ConnectionRefused => {
            "no agent listens there any more; start dev-agent again, or name the socket of the one that runs with --socket"
        }
        ErrorKind::PermissionDenied => "only the user who runs the agent and root may",
        _ => return error.to_string(),
    };
    what.to_owned()
}
