//! Runs the programs in `python/`, and others, with packages that pip installs for the test.

use std::{
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use harness::{
    installed::python_packages,
    process::{self, Process},
};
use tokio::{process::Command, sync::OnceCell, time::timeout};

/// The packages, in the versions that the tests were written with.
const PACKAGES: [&str; 2] = ["grpcio==1.85.3", "websockets==17.4"];

/// The time that a program may take.
const RUNNING: Duration = Duration::from_secs(60);

/// An interpreter with packages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Python(&'static Path);

impl Python {
    /// Installs the packages, once for all tests. Skips the test if that fails.
    pub(crate) async fn new() -> Option<Self> {
        static INSTALLED: OnceCell<Option<PathBuf>> = OnceCell::const_new();
        let directory = INSTALLED
            .get_or_init(|| python_packages(env!("CARGO_TARGET_TMPDIR"), &PACKAGES))
            .await;
        directory.as_deref().map(Self)
    }

    /// Starts a program that serves, and logs its port as our binaries do.
    pub(crate) fn spawn(self, program: &str, args: &[&str]) -> Process {
        Process::spawn(self.command(program, args))
    }

    /// Runs a program to its end.
    pub(crate) async fn run(self, program: &str, args: &[&str]) -> Output {
        let run = self.command(program, args).output();
        timeout(RUNNING, run).await.expect("ends in time").unwrap()
    }

    fn command(self, program: &str, args: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("apps/python")
            .join(program);
        let args = [&[script.to_str().unwrap()], args].concat();
        let mut command = process::command("python3".as_ref(), "", &args);
        command.env_remove("SPIFFE_ENDPOINT_SOCKET");
        command
            .env("PYTHONPATH", self.0)
            .env("PATH", std::env::var_os("PATH").unwrap());
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}
