//! What others may read of this process: private keys and tokens are in its memory.

use nix::{
    sys::{
        prctl,
        resource::{Resource, setrlimit},
    },
    unistd::geteuid,
};
use tracing::warn;

/// No file takes a core of one byte, and for this value the kernel starts no program to take one
/// (fs/coredump.c). To such a program, systemd-coredump for one, a limit of 0 says nothing (core(5)).
const NO_CORE: u64 = 1;

/// Turns core dumps off for good.
pub fn forbid_core_dumps() {
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, NO_CORE, NO_CORE) {
        warn!(%error, "cannot turn core dumps off");
    }
}

/// Lets root alone trace this process or read its memory (`PR_SET_DUMPABLE`, prctl(2)).
///
/// `agent` is the user of the agent that attests us. An unprivileged agent of our own user must still
/// read which binary we are, and whoever could trace us could as well be that agent.
pub fn forbid_tracing(agent: u32) {
    if agent == geteuid().as_raw() && agent != 0 {
        return;
    }
    if let Err(error) = prctl::set_dumpable(false) {
        warn!(%error, "cannot forbid other processes of this user to trace this one");
    }
}
