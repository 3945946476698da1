//! The socket file: made without taking anybody else's place, and removed only
//! while it is still ours.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::time::timeout;

use crate::error::Error;

/// What fits into `sun_path` with its final zero (unix(7)).
const MAX_PATH: usize = 107;
/// How many connections may wait to be accepted; the kernel has a limit of its own.
const BACKLOG: u32 = 1024;
/// How long a live agent may take to accept.
const PROBE: Duration = Duration::from_secs(1);

/// Who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody: who gets what is decided by attestation.
    Everybody,
    /// Processes of our own user, and root's.
    Owner,
}

/// A socket file that we made. It is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode: the file's identity, whatever is at the path later.
    identity: (u64, u64),
}

impl SocketFile {
    /// Binds `path`. A socket that a dead agent left behind is removed;
    /// anything else that is there stays, and is an error.
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
        make_way(path).await?;
        let failed = |source| Error::Listen {
            path: path.to_owned(),
            source,
        };
        let listener = UnixSocket::new_stream().map_err(failed)?;
        listener.bind(path).map_err(failed)?;
        let identity = fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()));
        let socket = Self {
            path: path.to_owned(),
            identity: identity.map_err(failed)?,
        };
        // Before we listen nobody can connect, so that no other mode ever counts.
        let mode = fs::Permissions::from_mode(access.mode());
        fs::set_permissions(path, mode).map_err(failed)?;
        Ok((socket, listener.listen(BACKLOG).map_err(failed)?))
    }
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Self::Everybody => 0o777,
            Self::Owner => 0o600,
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path) == Some(self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "socket not removed");
        }
    }
}

/// Whether a socket can have this path.
pub(crate) fn fits(path: &Path) -> bool {
    path.as_os_str().len() <= MAX_PATH
}

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
    // Whoever may write there can put a socket of his own in the place of ours.
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
    // Who uses a control socket looks whose process it is.
    if access == Access::Everybody && (!owned || mode & (sticky | group_writes) == group_writes) {
        tracing::warn!(
            directory = %directory.display(),
            "other users can replace the socket in this directory"
        );
    }
    Ok(())
}

/// Removes a socket that nobody listens on.
async fn make_way(path: &Path) -> Result<(), Error> {
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
    // Not one that came since.
    if identity(path) == Some((file.dev(), file.ino())) {
        fs::remove_file(path)
            .map_err(|error| refused(path, format!("the old socket cannot be removed: {error}")))?;
    }
    Ok(())
}

fn identity(path: &Path) -> Option<(u64, u64)> {
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
        SocketFile::bind(path, Access::Everybody).await
    }

    async fn refusal(path: &Path) -> String {
        bind(path).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn w008_a_socket_is_made_for_everybody_and_removed_in_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let (file, _listener) = bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777);
        drop(file);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn w008_a_directory_that_anybody_may_write_to_is_refused() {
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
    async fn w005_what_is_not_a_socket_stays_untouched() {
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
    async fn w006_a_stale_socket_is_replaced_and_a_live_one_is_not() {
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
    async fn w011_a_socket_that_is_not_ours_any_more_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let (file, _listener) = bind(&path).await.unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn w010_a_path_that_cannot_be_is_an_error_that_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("x".repeat(100));
        let error = refusal(&long).await;
        assert!(error.contains("at most 107; use a shorter one"), "{error}");
        let error = refusal(&directory.path().join("no/a.sock")).await;
        assert!(error.contains("create the directory"), "{error}");
    }
}
