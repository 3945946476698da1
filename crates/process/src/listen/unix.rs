//! A Unix socket to listen on, one for all cores.

use std::{
    fs, io,
    os::unix::{
        fs::FileTypeExt,
        net::{SocketAddr, UnixListener},
    },
    path::{Path, PathBuf},
};

use nix::sys::stat::{Mode, umask};
use serve::listen::StdSocket;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::protect;

/// A Unix socket that can be listened on.
#[derive(Debug)]
pub(super) struct UnixSocket {
    /// The flag that names it.
    flag: &'static str,
    path: PathBuf,
}

/// A Unix socket that can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on unix:{}: {}", path.display(), reason.text(flag))]
pub struct UnixListenError {
    flag: &'static str,
    path: PathBuf,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    InUse,
    NotASocket,
    Directory,
    Io(io::Error),
}

impl UnixSocket {
    /// Checks that the path, which `flag` names, can be listened on. A socket that nobody listens on may be
    /// left there by an earlier process.
    pub(super) fn claim(flag: &'static str, path: &Path) -> Result<Self, UnixListenError> {
        let path = path.to_owned();
        match check(&path) {
            Ok(()) => Ok(Self { flag, path }),
            Err(reason) => Err(UnixListenError { flag, path, reason }),
        }
    }

    /// Listens, and shares the socket among the cores. Only this user may connect, because each
    /// process that connects acts as this workload.
    pub(super) fn listen(self, cores: usize) -> Result<Vec<StdSocket>, UnixListenError> {
        let Self { flag, path } = self;
        bind(&path, cores).map_err(|reason| UnixListenError { flag, path, reason })
    }
}

impl Reason {
    /// Returns the text, with the flag that chooses another path.
    fn text(&self, flag: &str) -> String {
        match self {
            Self::InUse => {
                format!("a process listens there; stop it, or choose another path with {flag}")
            }
            Self::NotASocket => format!(
                "there is a file that is not a socket; remove it, or choose another path with {flag}"
            ),
            Self::Directory => format!(
                "its directory may be written to by other users, who could put a socket of theirs in its place; choose a directory of this user with {flag}"
            ),
            Self::Io(error) => format!(
                "{error}; the directory must exist, and this user must be allowed to write to it"
            ),
        }
    }
}

impl From<io::Error> for Reason {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn check(path: &Path) -> Result<(), Reason> {
    let directory = path.parent().unwrap_or(path);
    if protect::others_may_replace(&fs::metadata(directory)?) {
        return Err(Reason::Directory);
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
        Ok(found) if !found.file_type().is_socket() => Err(Reason::NotASocket),
        Ok(_) if is_listened_on(path)? => Err(Reason::InUse),
        Ok(_) => Ok(()),
    }
}

/// Returns whether a process listens on a socket. Its queue may be full, and is not waited for.
fn is_listened_on(path: &Path) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let connected = socket.connect(&SockAddr::unix(path)?);
    match connected.map_err(|error| (error.kind(), error)) {
        Ok(()) | Err((io::ErrorKind::WouldBlock, _)) => Ok(true),
        Err((io::ErrorKind::ConnectionRefused, _)) => Ok(false),
        Err((_, error)) => Err(error),
    }
}

fn bind(path: &Path, cores: usize) -> Result<Vec<StdSocket>, Reason> {
    check(path)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    // The file creation mask sets the mode of the new socket, which is therefore never open to others.
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
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
    use std::{
        os::unix::{
            fs::{PermissionsExt, chown},
            net::UnixStream,
        },
        sync::mpsc,
        thread,
        time::Duration,
    };

    use nix::unistd::geteuid;

    use super::*;

    fn error(path: &Path) -> String {
        UnixSocket::claim("--here", path).unwrap_err().to_string()
    }

    #[test]
    fn a_socket_is_for_this_user_alone_and_replaces_one_that_nobody_listens_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        for _ in 0..2 {
            let sockets = UnixSocket::claim("--here", &path)
                .unwrap()
                .listen(3)
                .unwrap();
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
        assert!(
            error(&file).contains("not a socket; remove it, or choose another path with --here")
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
        let missing = directory.path().join("no/such/directory");
        assert!(error(&missing).contains("the directory must exist"));

        let open = directory.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(
            error(&open.join("a.sock")).contains("choose a directory of this user with --here")
        );
        fs::set_permissions(&open, fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(UnixSocket::claim("--here", &open.join("a.sock")).is_ok());
        // Only root can give a directory away.
        if geteuid().is_root() {
            chown(&open, Some(65534), None).unwrap();
            for mode in [0o755, 0o1777] {
                fs::set_permissions(&open, fs::Permissions::from_mode(mode)).unwrap();
                assert!(
                    error(&open.join("a.sock"))
                        .contains("choose a directory of this user with --here")
                );
            }
        }
    }

    #[test]
    fn a_process_whose_queue_is_full_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let address = SockAddr::unix(&path).unwrap();
        let unix = || Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        let stopped = unix();
        stopped.bind(&address).unwrap();
        stopped.listen(0).unwrap();
        let mut waiting = Vec::new();
        let is_full = loop {
            waiting.push(unix());
            let last = waiting.last().unwrap();
            last.set_nonblocking(true).unwrap();
            if let Err(error) = last.connect(&address) {
                break error.kind() == io::ErrorKind::WouldBlock;
            }
        };
        assert!(is_full);
        let (sender, claimed) = mpsc::channel();
        thread::spawn(move || sender.send(error(&path)));
        let said = claimed.recv_timeout(Duration::from_secs(30));
        assert!(said.unwrap().contains("a process listens there"));
    }
}
