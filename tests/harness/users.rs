//! Runs processes of other Unix users, which needs root.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use nix::unistd::{User, geteuid};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{Stack, binary, process};

/// Holds a stack whose identities are those of Unix users, and binaries that all users may run.
pub struct Users {
    /// The dev-agent, on a socket that all users may reach.
    pub stack: Stack,
    binaries: TempDir,
}

impl Users {
    /// Makes each pair an entry: the last part of a SPIFFE ID, and the user who has it. Prints a
    /// line and returns `None` if the test is not run by root.
    pub async fn new(entries: &[(&str, &str)]) -> Option<Self> {
        if !geteuid().is_root() {
            crate::skip("running processes as other users needs root");
            return None;
        }
        let entries = entries
            .iter()
            .map(|(id, user)| {
                format!("spiffe://example.org/{id}=unix:user:{user};dns=localhost")
                    .parse()
                    .unwrap()
            })
            .collect();
        let stack = Stack::with("spiffe://example.org/test", |config| {
            config.entries = entries
        })
        .await;
        open(stack.agent.socket().parent().unwrap());
        let binaries = tempfile::tempdir().unwrap();
        open(binaries.path());
        for name in ["server", "proxy", "client"] {
            let copy = binaries.path().join(name);
            process::install(&binary(name), &copy);
            open(&copy);
        }
        Some(Self { stack, binaries })
    }

    /// Returns the command that runs a binary as `user`.
    pub fn command(&self, name: &str, user: &str, args: &[&str]) -> Command {
        let user = User::from_name(user)
            .unwrap()
            .expect("a user that every Linux machine has");
        let mut command = process::command(
            &self.binaries.path().join(name),
            &self.stack.agent.endpoint(),
            args,
        );
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        command
    }
}

fn open(path: &Path) {
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}
