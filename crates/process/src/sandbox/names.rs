//! The files that the system's library reads to look up host names and users.

use std::{fs, path::PathBuf};

use nix::unistd::geteuid;

/// The port of DNS. An answer that is long comes over TCP.
pub(super) const DNS_PORT: u16 = 53;

/// Files in `/etc` about host names.
const HOSTS: [&str; 5] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
];

/// Files in `/etc` about users.
const USERS: [&str; 2] = ["/etc/nsswitch.conf", "/etc/passwd"];

/// The modules of the name service, and the list in which the loader finds them.
const MODULES: [&str; 5] = [
    "/etc/ld.so.cache",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
];

/// Returns the files for host names.
///
/// Programs replace them by others, and a rule for a file ends with the file. A process without privileges
/// may therefore read `/etc`, as far as the permissions there let it. Root gets rules for the files alone,
/// because permissions do not bind it.
pub(super) fn files() -> Vec<PathBuf> {
    let resolver = fs::canonicalize(HOSTS[0]).ok();
    let resolver = resolver.and_then(|target| Some(target.parent()?.to_owned()));
    // systemd-resolved and NetworkManager keep the file in a directory of theirs.
    let resolver = resolver.filter(|directory| !directory.ends_with("etc"));
    in_etc(&HOSTS).into_iter().chain(resolver).collect()
}

/// Returns the files for the names of users.
pub(super) fn users() -> Vec<PathBuf> {
    in_etc(&USERS)
}

fn in_etc(files: &[&str]) -> Vec<PathBuf> {
    let etc: &[&str] = if geteuid().is_root() {
        files
    } else {
        &["/etc"]
    };
    [etc, &MODULES]
        .concat()
        .into_iter()
        .map(PathBuf::from)
        .collect()
}
