//! Attestation of callers by what the kernel says about the process at the other end of the socket.
//! Nothing that the caller sends has a part in it (Workload Endpoint §5).

use std::{
    collections::HashSet,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{getsockopt, sockopt},
    unistd::{Gid, Group, Uid, User},
};
use tokio::{net::UnixStream, sync::Semaphore, time::timeout};

use crate::{
    entry::Entry,
    rate::Rate,
    selector::{DELETED, Selector},
};

/// The kernel's answer for users that have no number in our user namespace. Root of another
/// namespace appears as `nobody` here.
const OVERFLOW_UID: u32 = 65534;
/// The longest time for one attestation. A user database may be on the network.
const DEADLINE: Duration = Duration::from_secs(5);
/// The most attestations at once.
const CONCURRENCY: usize = 32;

/// The process that connected, as the kernel noted it at that moment (SO_PEERCRED).
///
/// A process that passes its open socket to another process passes its identity too. The mechanism
/// can't prevent that.
#[derive(Clone, Debug)]
pub(crate) struct PeerProcess {
    /// The process number; 0 stands for a process of another PID namespace, which can't be
    /// attested.
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    gid: u32,
    /// A handle on the process itself, which no later process can have. Linux has it from 6.5 on.
    pidfd: Option<Arc<OwnedFd>>,
    /// The start time, which tells the process from a later one with the same number where there is
    /// no pidfd. It is `None` if the process had ended, or was about to execute another program.
    start_time: Option<u64>,
}

/// An attested caller.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) peer: PeerProcess,
    /// The path of its binary, if the agent may read it.
    pub(crate) path: Option<PathBuf>,
    pub(crate) selectors: HashSet<Selector>,
}

/// Attests callers by the kinds of selectors that the entries have, and counts their calls.
pub(crate) struct Attestor {
    users: bool,
    groups: bool,
    paths: bool,
    permits: Arc<Semaphore>,
    pub(crate) rate: Rate,
}

/// The reason why a caller can't be attested.
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

impl PeerProcess {
    /// Reads the credentials of the process that connected `stream`.
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
    /// Makes an attestor that finds the kinds of selectors that `entries` have.
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

    /// Finds the selectors of `peer`.
    ///
    /// # Errors
    /// Fails when the process has ended, has changed, or can't be examined in time.
    pub(crate) async fn attest(self: &Arc<Self>, peer: PeerProcess) -> Result<Caller, AttestError> {
        let attestor = Arc::clone(self);
        let attested = async move {
            let permit = Arc::clone(&attestor.permits).acquire_owned().await;
            tokio::task::spawn_blocking(move || {
                // A look-up that hangs keeps its permit, so that its thread is counted.
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

    fn look_up(&self, peer: &PeerProcess) -> Result<Caller, AttestError> {
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
        // The process is checked last, so that everything read before was certainly of this process.
        check_same(peer)?;
        Ok(Caller {
            peer: peer.clone(),
            path: exe.ok(),
            selectors,
        })
    }
}

/// Refuses a process that is not the one that connected, or that has changed its user or group.
fn check_same(peer: &PeerProcess) -> Result<(), AttestError> {
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

/// Returns whether `path` is the file that the process runs, in our file system too.
///
/// It is not if the file is gone, or if the process sees another file system: any user can have a
/// /usr/bin/server in a container.
fn is_our_file(pid: u32, path: &Path) -> bool {
    if path.as_os_str().as_bytes().ends_with(DELETED.as_bytes()) {
        return false;
    }
    let inode = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let ours = inode(path);
    ours.is_some() && ours == inode(Path::new(&proc_file(pid, "exe")))
}

/// Returns whether the process has ended, which makes its pidfd readable (pidfd_open(2)).
fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO) != Ok(0)
}

fn start_time(pid: u32) -> Option<u64> {
    parse_start_time(&fs::read(proc_file(pid, "stat")).ok()?)
}

/// Parses field 22 of `/proc/PID/stat` (proc(5)), if the process lives.
///
/// Field 2 is the name in parentheses and may contain anything, so fields count from the last ')'.
fn parse_start_time(stat: &[u8]) -> Option<u64> {
    let after_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let mut fields = str::from_utf8(&stat[after_name..])
        .ok()?
        .split_ascii_whitespace();
    let state = fields.next()?;
    // A zombie has ended, but its parent has not read its exit status yet.
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
