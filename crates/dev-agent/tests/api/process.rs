//! The binary as a process of its own.

use std::{
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStderr, Command, Stdio},
};

use nix::unistd::Uid;

/// Returns the command of the binary, without an environment.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dev-agent"));
    command.env_clear().stderr(Stdio::piped());
    command
}

/// A running dev-agent. Dropping it kills the process.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) log: Option<Lines<BufReader<ChildStderr>>>,
}

impl Running {
    /// Starts the process, and reads its log up to the line that says it is ready.
    pub(crate) fn start(command: &mut Command) -> (Self, Vec<String>) {
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut lines = Vec::new();
        let ready = |line: &String| line.contains("listening on unix:///");
        while !lines.last().is_some_and(ready) {
            let line = log.next();
            lines.push(
                line.unwrap_or_else(|| panic!("not ready: {lines:?}"))
                    .unwrap(),
            );
        }
        let log = Some(log);
        (Self { child, log }, lines)
    }

    /// Returns the lines of the log that were not read yet, and waits for each.
    pub(crate) fn log(&mut self) -> impl Iterator<Item = String> + use<'_> {
        self.log.as_mut().unwrap().map(Result::unwrap)
    }

    /// Sends a signal, and checks that the process ends with status 0.
    pub(crate) fn stop(mut self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns an entry that matches the user of the tests.
pub(crate) fn entry() -> String {
    format!("spiffe://example.org/a=unix:uid:{}", Uid::effective())
}
