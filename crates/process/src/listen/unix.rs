//! A Unix socket to listen on, one for all cores.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::{SocketAddr, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use serve::listen::StdSocket;

/// The path of a Unix socket that can be listened on.
#[derive(Debug)]
pub(super) struct UnixSocket(PathBuf);

/// A Unix socket that can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on unix:{}: {reason}", path.display())]
pub struct UnixListenError {
    path: PathBuf,
    reason: Reason,
}

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("a process listens there; stop it, or choose another path with --listen")]
    InUse,
    #[error(
        "there is a file that is not a socket; remove it, or choose another path with --listen"
    )]
    NotASocket,
    #[error(
        "its directory may be written to by other users, who could put a socket of theirs in its place; choose a directory of this user with --listen"
    )]
    Directory,
    #[error("{0}; the directory must exist, and this user must be allowed to write to it")]
    Io(#[from] io::Error),
}

/// The permission bits of a directory in which only its owner can remove files of others: writable by
/// group or others, and the sticky bit.
const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

impl UnixSocket {
    /// Checks that the path can be listened on. A socket that nobody listens on may be left there by an
    /// earlier process.
    pub(super) fn claim(path: &Path) -> Result<Self, UnixListenError> {
        check(path).map_err(|reason| UnixListenError {
            path: path.to_owned(),
            reason,
        })?;
        Ok(Self(path.to_owned()))
    }

    /// Listens, and shares the socket among the cores. Only this user may connect, because whoever connects
    /// acts as this workload.
    pub(super) fn listen(self, cores: usize) -> Result<Vec<StdSocket>, UnixListenError> {
        let Self(path) = self;
        bind(&path, cores).map_err(|reason| UnixListenError { path, reason })
    }
}

fn check(path: &Path) -> Result<(), Reason> {
    let directory = path.parent().unwrap_or(path);
    let mode = fs::metadata(directory)?.permissions().mode();
    if mode & WRITABLE_BY_OTHERS != 0 && mode & STICKY == 0 {
        return Err(Reason::Directory);
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
        Ok(found) if !found.file_type().is_socket() => Err(Reason::NotASocket),
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Err(Reason::InUse),
        },
    }
}

fn bind(path: &Path, cores: usize) -> Result<Vec<StdSocket>, Reason> {
    check(path)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    // The mode of the new socket is that of the file creation mask, so that it is never open to others.
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    nix::sys::stat::umask(before);
    let listener = bound?;
    listener.set_nonblocking(true)?;
    let sockets = (0..cores).map(|_| Ok(StdSocket::Unix(listener.try_clone()?)));
    Ok(sockets.collect::<io::Result<_>>()?)
}

/// Returns the address for the log.
pub(super) fn display(address: &SocketAddr) -> String {
    let path = address.as_pathname().map(Path::display);
    path.map_or_else(|| "unix:".to_owned(), |path| format!("unix:{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(path: &Path) -> String {
        UnixSocket::claim(path).unwrap_err().to_string()
    }

    #[test]
    fn a_socket_is_for_this_user_alone_and_replaces_one_that_nobody_listens_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        for _ in 0..2 {
            let sockets = UnixSocket::claim(&path).unwrap().listen(3).unwrap();
            assert_eq!(sockets.len(), 3);
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            assert!(UnixStream::connect(&path).is_ok());
            assert!(error(&path).contains("a process listens there"));
        }
    }

    #[test]
    fn a_path_that_cannot_be_listened_on_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "kept").unwrap();
        assert!(error(&file).contains("not a socket; remove it"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
        let missing = directory.path().join("no/such/directory");
        assert!(error(&missing).contains("the directory must exist"));

        let open = directory.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(error(&open.join("a.sock")).contains("choose a directory of this user"));
    }
}
