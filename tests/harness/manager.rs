//! Receives the states of a process in place of a service manager, such as systemd.

use std::{
    ffi::OsString,
    os::{linux::net::SocketAddrExt, unix::net},
};

use tempfile::TempDir;
use tokio::{net::UnixDatagram, time::timeout};

use crate::{
    PATIENCE, Stack, binary,
    process::{self, Process},
};

/// The socket of a service manager, which reads the states of the process that it starts.
pub struct Manager {
    socket: UnixDatagram,
    /// The name of the socket in `NOTIFY_SOCKET`.
    name: OsString,
    directory: TempDir,
}

impl Manager {
    /// Listens on a socket in a directory of its own.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        Self {
            socket: UnixDatagram::bind(&path).unwrap(),
            name: path.into(),
            directory,
        }
    }

    /// Returns a manager whose socket has an abstract name.
    pub fn with_abstract_name() -> Self {
        let name = format!("notify-{}", std::process::id());
        let address = net::SocketAddr::from_abstract_name(&name).unwrap();
        let socket = net::UnixDatagram::bind_addr(&address).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            socket: UnixDatagram::from_std(socket).unwrap(),
            name: format!("@{name}").into(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// Returns a path next to the socket.
    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// Starts a binary that uses the agent of `stack`.
    pub fn spawn(&self, stack: &Stack, name: &str, args: &[&str]) -> Process {
        self.spawn_with(stack, name, args, &[])
    }

    /// Does the same as [`Self::spawn`] with more variables.
    pub fn spawn_with(
        &self,
        stack: &Stack,
        name: &str,
        args: &[&str],
        environment: &[(&str, &str)],
    ) -> Process {
        self.spawn_at(&stack.agent.endpoint(), name, args, environment)
    }

    /// Does the same as [`Self::spawn_with`] with the Workload API at this address.
    pub fn spawn_at(
        &self,
        endpoint: &str,
        name: &str,
        args: &[&str],
        environment: &[(&str, &str)],
    ) -> Process {
        let mut command = process::command(&binary(name), endpoint, args);
        command.env("NOTIFY_SOCKET", &self.name);
        command.envs(environment.iter().copied());
        Process::spawn(command)
    }

    /// Returns the next state.
    pub async fn next(&self) -> String {
        let mut datagram = [0; 4096];
        let received = timeout(PATIENCE, self.socket.recv(&mut datagram)).await;
        let length = received.expect("a state comes in time").unwrap();
        String::from_utf8(datagram[..length].to_vec()).unwrap()
    }

    /// Returns the states up to the first one with a text.
    pub async fn told(&self, text: &str) -> Vec<String> {
        self.told_when(|state| state.contains(text)).await
    }

    /// Returns the states up to the first one that is as wanted.
    pub async fn told_when(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let mut states = vec![self.next().await];
        while !is_wanted(&states[states.len() - 1]) {
            states.push(self.next().await);
        }
        states
    }

    /// Waits for the end of a reload with an outcome. Returns the state that began it.
    pub async fn reloaded(&self, outcome: &str) -> String {
        let begun = self.told("RELOADING=1").await.pop().unwrap();
        let done = self.next().await;
        assert!(
            has_line(&done, "READY=1") && done.contains(outcome),
            "{done}"
        );
        begun
    }
}

/// Returns whether a state has a line.
pub fn has_line(state: &str, line: &str) -> bool {
    state.lines().any(|one| one == line)
}
