//! The lines that both ends of the control socket exchange, and the users that they trust.

use std::{io, time::Duration};

use nix::unistd::geteuid;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

/// The longest line: a bundle document of 1 MiB as a JSON string, each byte escaped, and the
/// command.
const MAX_LINE: u64 = (2 << 20) + (4 << 10);
/// The longest time for a peer to send its line, or to read ours.
pub(super) const LINE_DEADLINE: Duration = Duration::from_secs(5);

/// Returns whether this user may control our agent, and its replies may be believed.
pub(super) fn is_trusted(uid: u32) -> bool {
    [0, geteuid().as_raw()].contains(&uid)
}

/// Reads a line, or everything up to the end, as JSON.
pub(super) async fn receive<M: DeserializeOwned>(
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

/// Sends a message as a line of JSON.
pub(super) async fn send<M: Serialize>(stream: &mut UnixStream, message: &M) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    timeout(LINE_DEADLINE, stream.write_all(&line)).await?
}
