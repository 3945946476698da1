//! Who a caller is: what the kernel says about the process at the other end of
//! the socket. Nothing that the caller sends has a part in it (Workload Endpoint §5).

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Gid, Group, Uid, User};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::entry::Entry;
use crate::rate::Rate;
use crate::selector::{DELETED, Selector};

/// The kernel's answer for users that have no number in our user namespace.
/// Another namespace's root would be `nobody` here.
const OVERFLOW_UID: u32 = 65534;
/// How long one attestation may take; a user database may be on the network.
const DEADLINE: Duration = Duration::from_secs(5);
/// How many attestations may be in progress.
const CONCURRENCY: usize = 32;

/// The process that connected, as the kernel noted it at that moment (SO_PEERCRED).
///
/// A process that connects and hands the open socket to another one hands its
/// identity with it: that is a limit of the mechanism.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// 0: a process of another PID namespace, of which nothing can be known.
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    gid: u32,
    /// The process itself, so that no later one can pass for it. Linux 6.5 has it.
    pidfd: Option<Arc<OwnedFd>>,
    /// Without that, what tells it from a later one with the same number; `None`: it
    /// had ended by the time we looked, or was about to become another program.
    start_time: Option<u64>,
}

/// An attested caller.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) peer: Peer,
    /// Its binary, where it may be known.
    pub(crate) path: Option<PathBuf>,
    pub(crate) selectors: HashSet<Selector>,
}

/// Attests callers, as far as the entries ask, and counts their calls.
pub(crate) struct Attestor {
    users: bool,
    groups: bool,
    paths: bool,
    permits: Arc<Semaphore>,
    pub(crate) rate: Rate,
}

/// Why a caller could not be attested.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttestError {
    #[error("the kernel does not say which process it is")]
    NoProcess,
    #[error("its user has no number here (user namespaces)")]
    UnmappedUser,
    #[error("it has ended, or another process has its number now")]
    Ended,
    #[error(
        "it changed its user or group after it connected, or the kernel protects it (prctl(2), PR_SET_DUMPABLE)"
    )]
    CredentialsChanged,
    #[error("its binary cannot be read; run the agent as the same user or as root")]
    Path(#[source] io::Error),
    #[error("it took longer than {DEADLINE:?}")]
    Deadline,
}

impl Peer {
    /// Takes the credentials of the process that connected `stream`.
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok());
        let pid = pid.unwrap_or_default();
        let pidfd = match getsockopt(stream, sockopt::PeerPidfd) {
            Ok(pidfd) => Some(Arc::new(pidfd)),
            Err(Errno::ENOPROTOOPT) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            pid,
            uid: credentials.uid(),
            gid: credentials.gid(),
            start_time: start_time(pid),
            pidfd,
        })
    }
}

impl Attestor {
    /// An attestor that finds out what these entries ask for.
    pub(crate) fn new(entries: &[Entry]) -> Self {
        let asked = |kind: fn(&Selector) -> bool| {
            entries
                .iter()
                .any(|entry| entry.selectors().iter().any(kind))
        };
        Self {
            users: asked(|s| matches!(s, Selector::User(_))),
            groups: asked(|s| matches!(s, Selector::Group(_))),
            paths: asked(|s| matches!(s, Selector::Path(_))),
            permits: Arc::new(Semaphore::new(CONCURRENCY)),
            rate: Rate::new(),
        }
    }

    /// Finds out who `peer` is now, or that it is not the one that connected.
    pub(crate) async fn attest(self: &Arc<Self>, peer: Peer) -> Result<Caller, AttestError> {
        let attestor = self.clone();
        let attested = async move {
            let permit = attestor.permits.clone().acquire_owned().await;
            tokio::task::spawn_blocking(move || {
                // Held until a look-up that hangs returns: these threads are bounded too.
                let _permit = permit;
                attestor.look_up(&peer)
            })
            .await
            .unwrap_or(Err(AttestError::Ended))
        };
        timeout(DEADLINE, attested)
            .await
            .unwrap_or(Err(AttestError::Deadline))
    }

    fn look_up(&self, peer: &Peer) -> Result<Caller, AttestError> {
        if peer.pid == 0 {
            return Err(AttestError::NoProcess);
        }
        if peer.uid == OVERFLOW_UID {
            return Err(AttestError::UnmappedUser);
        }
        let mut selectors = HashSet::from([Selector::Uid(peer.uid), Selector::Gid(peer.gid)]);
        let exe = fs::read_link(proc_file(peer.pid, "exe"));
        if self.paths {
            let path = exe
                .as_ref()
                .map_err(|error| AttestError::Path(io::Error::from(error.kind())))?;
            if is_our_file(peer.pid, path) {
                selectors.insert(Selector::Path(path.as_os_str().to_owned()));
            }
        }
        if self.users
            && let Ok(Some(user)) = User::from_uid(Uid::from_raw(peer.uid))
        {
            selectors.insert(Selector::User(user.name));
        }
        if self.groups
            && let Ok(Some(group)) = Group::from_gid(Gid::from_raw(peer.gid))
        {
            selectors.insert(Selector::Group(group.name));
        }
        // Last: then all that was read before was this process's.
        check_same(peer)?;
        Ok(Caller {
            peer: peer.clone(),
            path: exe.ok(),
            selectors,
        })
    }
}

/// Refuses a process that is not the one that connected, or has other rights by now.
fn check_same(peer: &Peer) -> Result<(), AttestError> {
    let owner = fs::metadata(format!("/proc/{}", peer.pid)).map_err(|_| AttestError::Ended)?;
    let ended = match &peer.pidfd {
        Some(pidfd) => has_ended(pidfd),
        None => peer.start_time.is_none() || start_time(peer.pid) != peer.start_time,
    };
    if ended {
        return Err(AttestError::Ended);
    }
    if (owner.uid(), owner.gid()) != (peer.uid, peer.gid) {
        return Err(AttestError::CredentialsChanged);
    }
    Ok(())
}

/// Whether `path` is, for us too, the file that the process runs. It is not if
/// the file is gone, or if the process sees another file system than we do: in
/// a container anybody can have a /usr/bin/server.
fn is_our_file(pid: u32, path: &Path) -> bool {
    if path.as_os_str().as_bytes().ends_with(DELETED.as_bytes()) {
        return false;
    }
    let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let ours = identity(path);
    ours.is_some() && ours == identity(Path::new(&proc_file(pid, "exe")))
}

/// A pidfd becomes readable when its process ends (pidfd_open(2)).
fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO) != Ok(0)
}

fn start_time(pid: u32) -> Option<u64> {
    parse_start_time(&fs::read(proc_file(pid, "stat")).ok()?)
}

/// Field 22 of `/proc/PID/stat` (proc(5)), if the process lives. Field 2 is its
/// name in parentheses and may contain anything, so fields count from the last ')'.
fn parse_start_time(stat: &[u8]) -> Option<u64> {
    let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let mut fields = str::from_utf8(&stat[after_name..])
        .ok()?
        .split_ascii_whitespace();
    let state = fields.next()?;
    // Dead, but its parent has not asked for its exit status yet.
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn proc_file(pid: u32, name: &str) -> String {
    format!("/proc/{pid}/{name}")
}

#[cfg(test)]
mod tests;
