//! The socket file. It replaces no socket that is in use, and is removed only while it is ours.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    fcntl::{OFlag, open},
    sys::stat::Mode,
    unistd::geteuid,
};
use tokio::{
    net::{UnixListener, UnixSocket, UnixStream},
    time::timeout,
};
use tracing::warn;

use crate::error::Error;

/// The longest path that fits into `sun_path` with its final zero (unix(7)).
const MAX_PATH: usize = 107;
/// The most connections that wait to be accepted. The kernel may have a lower limit.
const BACKLOG: u32 = 1024;
/// The time in which a live agent accepts a connection.
const PROBE: Duration = Duration::from_secs(1);

/// The users that may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// All users, because attestation decides which identity a caller gets.
    All,
    /// Our own user and root.
    Owner,
}

/// A socket file that we made. Dropping this removes it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode, by which we know the file again.
    inode: (u64, u64),
}

impl SocketFile {
    /// Binds `path`. Removes a socket that a dead agent left behind.
    ///
    /// # Errors
    /// Fails when anything else is there, or when the path can't be used.
    pub(crate) async fn bind(path: &Path, access: Access) -> Result<(Self, UnixListener), Error> {
        if !fits(path) {
            let length = path.as_os_str().len();
            return Err(refused(
                path,
                format!(
                    "the path has {length} bytes, a socket's has at most {MAX_PATH}; use a shorter one"
                ),
            ));
        }
        check_directory(path, access)?;
        remove_stale(path).await?;
        let failed = |source| Error::Listen {
            path: path.to_owned(),
            source,
        };
        let listener = UnixSocket::new_stream().map_err(failed)?;
        listener.bind(path).map_err(failed)?;
        // The mode is set before we listen, because no process can connect until then.
        let socket = Self {
            path: path.to_owned(),
            inode: set_mode(path, access)?,
        };
        Ok((socket, listener.listen(BACKLOG).map_err(failed)?))
    }
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Self::All => 0o777,
            Self::Owner => 0o600,
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path) == Some(self.inode)
            && let Err(error) = fs::remove_file(&self.path)
        {
            warn!(%error, path = %self.path.display(), "socket not removed");
        }
    }
}

/// Returns whether a socket can have this path.
pub(crate) fn fits(path: &Path) -> bool {
    path.as_os_str().len() <= MAX_PATH
}

/// Refuses a directory that every user may write to, and warns of one where other users could
/// replace the socket.
fn check_directory(path: &Path, access: Access) -> Result<(), Error> {
    let directory = path.parent().unwrap_or(path);
    let metadata = fs::metadata(directory).map_err(|error| {
        let directory = directory.display();
        refused(
            path,
            format!("{directory}: {error}; create the directory, or choose another socket"),
        )
    })?;
    let (sticky, group_writes, others_write) = (0o1000, 0o020, 0o002);
    let mode = metadata.mode();
    // A user who may write there can replace our socket with another one.
    if mode & (sticky | others_write) == others_write {
        let directory = directory.display();
        return Err(refused(
            path,
            format!(
                "anybody may write to {directory}; choose a directory that only you may write to, or 'chmod o-w {directory}'"
            ),
        ));
    }
    let owned = [0, geteuid().as_raw()].contains(&metadata.uid());
    // The user of a control socket checks which user is at the other end.
    if access == Access::All && (!owned || mode & (sticky | group_writes) == group_writes) {
        warn!(
            directory = %directory.display(),
            "other users can replace the socket in this directory"
        );
    }
    Ok(())
}

/// Sets the mode of the socket that we have just bound. Returns its device and inode.
///
/// Another user of the directory may have put a link in its place. Therefore the file is opened without
/// following a link, and the mode is set through the descriptor.
fn set_mode(path: &Path, access: Access) -> Result<(u64, u64), Error> {
    let failed = |error: io::Error| refused(path, format!("its mode cannot be set: {error}"));
    // `OpenOptions::custom_flags` drops `O_PATH` with musl, where it is part of `O_ACCMODE`.
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    let file = File::from(file);
    let metadata = file.metadata().map_err(failed)?;
    let is_ours = metadata.file_type().is_socket()
        && metadata.uid() == geteuid().as_raw()
        && metadata.nlink() == 1;
    if !is_ours {
        return Err(refused(
            path,
            "another user replaced the new socket; choose a directory that only you may write to"
                .to_owned(),
        ));
    }
    let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::set_permissions(descriptor, fs::Permissions::from_mode(access.mode())).map_err(failed)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Removes a socket on which no process listens.
async fn remove_stale(path: &Path) -> Result<(), Error> {
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(path, error.to_string())),
    };
    if !file.file_type().is_socket() {
        return Err(refused(
            path,
            "something that is not a socket is there; remove it, or choose another socket"
                .to_owned(),
        ));
    }
    match timeout(PROBE, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {}
        Ok(Err(error)) => {
            return Err(refused(
                path,
                format!("a socket is there that cannot be tried: {error}"),
            ));
        }
        Ok(Ok(_)) | Err(_) => {
            return Err(refused(
                path,
                "another agent is listening there; stop it, or choose another socket".to_owned(),
            ));
        }
    }
    // Another process may have replaced it since.
    if inode(path) == Some((file.dev(), file.ino())) {
        fs::remove_file(path)
            .map_err(|error| refused(path, format!("the old socket cannot be removed: {error}")))?;
    }
    Ok(())
}

/// Returns device and inode of the file at `path`.
fn inode(path: &Path) -> Option<(u64, u64)> {
    let file = fs::symlink_metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

fn refused(path: &Path, reason: String) -> Error {
    Error::Socket {
        path: path.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    async fn bind(path: &Path) -> Result<(SocketFile, UnixListener), Error> {
        SocketFile::bind(path, Access::All).await
    }

    async fn refusal(path: &Path) -> String {
        bind(path).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_socket_is_open_to_all_users_and_removed_in_the_end_w008() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let (file, _listener) = bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_link_in_place_of_the_new_socket_keeps_the_mode_of_its_target_t002() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name| directory.path().join(name);
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        fs::write(at("secret"), "precious").unwrap();
        fs::set_permissions(at("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        drop(std::os::unix::net::UnixListener::bind(at("other")).unwrap());
        fs::set_permissions(at("other"), fs::Permissions::from_mode(0o600)).unwrap();
        symlink(at("secret"), at("to a file")).unwrap();
        symlink(at("other"), at("to a socket")).unwrap();
        fs::hard_link(at("other"), at("hard")).unwrap();
        for name in ["to a file", "to a socket", "hard", "secret"] {
            let error = set_mode(&at(name), Access::All).unwrap_err().to_string();
            assert!(error.contains("replaced the new socket"), "{name}: {error}");
        }
        assert_eq!((mode(&at("secret")), mode(&at("other"))), (0o600, 0o600));
        fs::remove_file(at("hard")).unwrap();
        set_mode(&at("other"), Access::All).unwrap();
        assert_eq!(mode(&at("other")), 0o777);
    }

    #[tokio::test]
    async fn a_directory_that_every_user_may_write_to_is_refused_w008() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        for (mode, accepted) in [
            (0o777, false),
            (0o702, false),
            (0o1777, true),
            (0o755, true),
        ] {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
            match bind(&path).await {
                Ok(_) => assert!(accepted, "{mode:o}"),
                Err(error) => {
                    let error = error.to_string();
                    assert!(
                        !accepted && error.contains("chmod o-w"),
                        "{mode:o}: {error}"
                    );
                }
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_is_not_a_socket_is_refused_and_stays_untouched_w005() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name| directory.path().join(name);
        fs::write(at("file"), "precious").unwrap();
        fs::create_dir(at("directory")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(at("stale")).unwrap());
        symlink(at("stale"), at("link")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        for name in ["file", "directory", "link", "dangling"] {
            let error = refusal(&at(name)).await;
            assert!(error.contains("not a socket is there"), "{error}");
            assert!(fs::symlink_metadata(at(name)).is_ok());
        }
        assert_eq!(fs::read(at("file")).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not_w006() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (_file, listener) = bind(&path).await.unwrap();
        let error = refusal(&path).await;
        assert!(
            error.contains("another agent is listening there"),
            "W7, S3: {error}"
        );
        drop(listener);
    }

    #[tokio::test]
    async fn a_socket_file_that_was_replaced_is_not_removed_w011() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let (file, _listener) = bind(&path).await.unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_path_that_cannot_be_used_is_an_error_with_the_reason_w010() {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("x".repeat(100));
        let error = refusal(&long).await;
        assert!(error.contains("at most 107; use a shorter one"), "{error}");
        let error = refusal(&directory.path().join("no/a.sock")).await;
        assert!(error.contains("create the directory"), "{error}");
    }
}
