//! Protection of the process's memory, which has private keys and tokens, and of its files and sockets.

use std::{fs::Metadata, os::unix::fs::MetadataExt};

use nix::{
    sys::{
        prctl,
        resource::{Resource, setrlimit},
    },
    unistd::geteuid,
};
use tracing::warn;

/// The limit that turns core dumps off. A file of one byte can't have a core, and with this value
/// the kernel starts no program that takes cores, such as systemd-coredump (fs/coredump.c). Such a
/// program ignores a limit of 0 (core(5)).
const NO_CORE: u64 = 1;

/// The permission bits that let the group or others write to a directory.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The sticky bit of a directory, with which users can replace only files of their own.
const STICKY: u32 = 0o1000;

/// Turns core dumps off until the process ends.
pub(crate) fn forbid_core_dumps() {
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, NO_CORE, NO_CORE) {
        warn!(%error, "cannot turn core dumps off");
    }
}

/// Forbids all users but root to trace this process or to read its memory (`PR_SET_DUMPABLE`,
/// prctl(2)).
///
/// `agent` is the user of the agent that attests us. An unprivileged agent of our own user must be
/// able to read which binary we are. In that case tracing stays allowed, because another process of
/// this user could act as the agent anyway.
pub(crate) fn forbid_tracing(agent: u32) {
    if agent == geteuid().as_raw() && agent != 0 {
        return;
    }
    if let Err(error) = prctl::set_dumpable(false) {
        warn!(%error, "cannot forbid other processes of this user to trace this one");
    }
}

/// Returns whether users other than root and this one may replace this user's files in a directory. Its
/// owner may do so whatever the permission bits are.
#[must_use]
pub fn others_may_replace(directory: &Metadata) -> bool {
    let mode = directory.mode();
    let is_open = mode & WRITABLE_BY_OTHERS != 0 && mode & STICKY == 0;
    let is_ours = [0, geteuid().as_raw()].contains(&directory.uid());
    is_open || !is_ours
}
