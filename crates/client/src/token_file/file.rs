//! The file: its checks at the start, its replacement and its removal.

use std::{
    ffi::OsString,
    fs::{self, File, Metadata, OpenOptions, Permissions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail, ensure};
use nix::unistd::{AccessFlags, access, geteuid};
use process::protect;
use spiffe::JwtSvid;

/// A file that holds a token or does not exist.
#[derive(Clone, Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    /// The file that is renamed to `path`, in the same directory. A process that was killed may have left it
    /// there.
    new: PathBuf,
}

/// The permission bits of the file.
const MODE: u32 = 0o600;

const NOT_WRITABLE: &str =
    "cannot write to its directory; let this user write there, or choose another path";

/// A longer file has no token. Servers refuse longer tokens.
const MAX: u64 = 16 * 1024;

impl TokenFile {
    /// Checks that the file can be kept there. Returns it with the token that an earlier process left.
    ///
    /// # Errors
    /// Fails with the remedy when others could replace the file, when something else is in its place, or
    /// when it can't be written.
    pub(super) fn claim(path: &Path) -> anyhow::Result<(Self, Option<Arc<JwtSvid>>)> {
        Self::checked(path).with_context(|| format!("--token-file {}", path.display()))
    }

    fn checked(path: &Path) -> anyhow::Result<(Self, Option<Arc<JwtSvid>>)> {
        let (file, left) = Self::located(path)?;
        let written = file.create().and_then(|_| fs::remove_file(&file.new));
        written.context(NOT_WRITABLE)?;
        Ok((file, left))
    }

    /// Checks the file as [`Self::claim`] does, and writes nothing, so that no running client is disturbed.
    ///
    /// # Errors
    /// Fails when [`Self::claim`] would.
    pub(super) fn check(path: &Path) -> anyhow::Result<()> {
        let (file, _) = Self::located(path)?;
        let directory = file.new.parent().unwrap_or_else(|| Path::new("."));
        access(directory, AccessFlags::W_OK).context(NOT_WRITABLE)
    }

    fn located(path: &Path) -> anyhow::Result<(Self, Option<Arc<JwtSvid>>)> {
        let Some(name) = path.file_name() else {
            bail!("it names no file; expected for example /run/app/token");
        };
        let parent = path.parent().filter(|one| !one.as_os_str().is_empty());
        let directory = parent.unwrap_or_else(|| Path::new("."));
        let metadata = fs::metadata(directory)
            .context("the directory must exist, and this user must be allowed to use it")?;
        check_directory(directory, &metadata)?;
        let mut new = OsString::from(".");
        new.push(name);
        new.push(".new");
        let file = Self {
            path: path.to_owned(),
            new: directory.join(new),
        };
        let left = left_there(path)?;
        Ok((file, left))
    }

    /// Replaces the file as a whole, so that a reader finds either the previous token or this one.
    pub(super) fn write(&self, token: &str) -> io::Result<()> {
        let written = self.create().and_then(|mut file| {
            file.write_all(token.as_bytes())?;
            // A machine that stops could otherwise leave the new name without the contents.
            file.sync_all()?;
            fs::rename(&self.new, &self.path)
        });
        if written.is_err() {
            // The next attempt removes it too.
            let _ = fs::remove_file(&self.new);
        }
        written
    }

    /// Removes the file, if it is there.
    pub(super) fn remove(&self) -> io::Result<()> {
        remove(&self.path)
    }

    pub(super) fn display(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// Creates the new file, which no other user can open at any moment.
    fn create(&self) -> io::Result<File> {
        remove(&self.new)?;
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&self.new)?;
        // The file creation mask may have taken bits away.
        file.set_permissions(Permissions::from_mode(MODE))?;
        Ok(file)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn check_directory(directory: &Path, metadata: &Metadata) -> anyhow::Result<()> {
    let shown = directory.display();
    ensure!(metadata.is_dir(), "{shown} is not a directory");
    ensure!(
        !protect::others_may_replace(metadata),
        "other users may write to its directory {shown}, and could put a file of theirs in its place; choose a directory of this user, for example one made by: install -d -m 0700 /run/app"
    );
    Ok(())
}

/// Returns the token that an earlier process left in the file.
fn left_there(path: &Path) -> anyhow::Result<Option<Arc<JwtSvid>>> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        metadata => metadata?,
    };
    let kind = metadata.file_type();
    ensure!(
        kind.is_file(),
        "there is a {}, not a file; remove it, or choose another path",
        if kind.is_dir() {
            "directory"
        } else if kind.is_symlink() {
            "symbolic link"
        } else if kind.is_socket() {
            "socket"
        } else {
            "device or pipe"
        }
    );
    ensure!(
        metadata.uid() == geteuid().as_raw(),
        "the file there belongs to another user; remove it, or choose another path"
    );
    let mut text = String::new();
    let read = File::open(path)?.take(MAX).read_to_string(&mut text);
    if matches!(read, Ok(0)) {
        return Ok(None);
    }
    let token = read.ok().and_then(|_| JwtSvid::parse_insecure(&text).ok());
    let token = token.context(
        "the file there has something other than a JWT-SVID; remove it, or choose another path",
    )?;
    Ok(Some(Arc::new(token)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::{
        fs::{chown, symlink},
        net::UnixListener,
    };

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_is_for_this_user_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let (file, left) = TokenFile::claim(&path).unwrap();
        assert!(left.is_none() && !path.exists());
        fs::write(&file.new, "left by a process that was killed").unwrap();
        for token in ["first", "second"] {
            file.write(token).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), token);
            assert_eq!(path.metadata().unwrap().mode() & 0o7777, MODE);
            assert!(!file.new.exists());
        }
        file.remove().unwrap();
        assert!(!path.exists());
        file.remove().unwrap();
        // A name without a directory is in the current one.
        assert!(TokenFile::claim(Path::new("no-such-token")).is_ok());
    }

    #[test]
    fn a_path_that_cannot_hold_a_token_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("directory")).unwrap();
        symlink(at("elsewhere"), at("link")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        fs::write(at("other"), "not a token").unwrap();
        fs::write(at("long"), vec![b'a'; 1 << 20]).unwrap();
        fs::create_dir(at("open")).unwrap();
        fs::set_permissions(at("open"), Permissions::from_mode(0o777)).unwrap();
        for (name, said) in [
            ("..", "names no file"),
            ("directory", "there is a directory, not a file; remove it"),
            ("link", "there is a symbolic link"),
            ("socket", "there is a socket"),
            ("other", "something other than a JWT-SVID; remove it"),
            ("long", "something other than a JWT-SVID; remove it"),
            ("other/token", "is not a directory"),
            ("missing/token", "the directory must exist"),
            ("open/token", "other users may write to its directory"),
        ] {
            let path = at(name);
            let error = format!("{:#}", TokenFile::claim(&path).unwrap_err());
            assert!(error.contains(said), "{name}: {error}");
            assert!(error.starts_with(&format!("--token-file {}: ", path.display())));
            assert!(!error.contains('\n'), "{error}");
        }
        assert_eq!(fs::read_to_string(at("other")).unwrap(), "not a token");

        fs::set_permissions(at("open"), Permissions::from_mode(0o1777)).unwrap();
        assert!(TokenFile::claim(&at("open/token")).is_ok());
        fs::write(at("empty"), "").unwrap();
        assert!(TokenFile::claim(&at("empty")).is_ok());
        // Only root can give a directory away.
        if geteuid().is_root() {
            chown(at("open"), Some(65534), None).unwrap();
            let error = TokenFile::claim(&at("open/token")).unwrap_err();
            assert!(format!("{error:#}").contains("other users may write to its directory"));
        }
    }
}
