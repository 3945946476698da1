//! The permission on a Unix socket: which directory or file keeps this process from it.

use std::{fs, io::ErrorKind::PermissionDenied, os::unix::fs::MetadataExt, path::Path};

/// Returns whether the path exists and this user can see it.
pub(super) fn is_there(path: &Path) -> bool {
    fs::metadata(path).is_ok()
}

/// Returns the words for what keeps this process from the socket: the first directory that it may not
/// search, or the socket itself.
pub(super) fn obstacle(path: &Path) -> String {
    let ancestors: Vec<_> = path.ancestors().collect();
    // From the root down, the first path without metadata is in a directory that can't be searched.
    for pair in ancestors.windows(2).rev() {
        let [below, directory] = pair else {
            continue;
        };
        let metadata = fs::metadata(below);
        if metadata.is_err_and(|error| error.kind() == PermissionDenied) {
            return format!(
                "this user may not search the directory {}{}",
                directory.display(),
                mode(directory)
            );
        }
    }
    format!(
        "this user may not write to the socket {}{}",
        path.display(),
        mode(path)
    )
}

/// Returns the words for owner and mode, if they can be read.
fn mode(path: &Path) -> String {
    match fs::metadata(path) {
        Ok(file) => format!(
            " (uid {}, gid {}, mode {:04o})",
            file.uid(),
            file.gid(),
            file.mode() & 0o7777
        ),
        Err(_) => String::new(),
    }
}
