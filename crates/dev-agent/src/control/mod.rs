//! The control socket, through which another process of the same user, or of root, controls a
//! running agent.
//!
//! Each connection carries one [`Command`] and one [`Reply`], each a line of JSON. On both sides
//! the kernel tells which user is at the other end.

mod ask;
mod channel;
mod command;
mod execute;
mod socket;

use std::{
    ffi::OsString,
    path::{Path, PathBuf, absolute},
};

pub use self::{
    ask::ask,
    command::{Command, MAX_WAIT, Reply},
    socket::ControlSocket,
};
use crate::listen;

/// Returns the default control socket of the agent whose Workload API is at `socket`: `agent.sock`
/// → `agent.sock.ctl`.
#[must_use]
pub fn default_path(socket: &Path) -> PathBuf {
    let mut path = OsString::from(socket);
    path.push(".ctl");
    path.into()
}

/// Returns whether `path`, made absolute, is short enough for a socket.
#[must_use]
pub fn fits(path: &Path) -> bool {
    absolute(path).is_ok_and(|path| listen::fits(&path))
}
