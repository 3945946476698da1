//! Runs the programs in `python/`, and others, with packages that pip installs for the test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use harness::process::{self, Process};
use tokio::{process::Command, sync::OnceCell, time::timeout};

/// The packages, in the versions that the tests were written with.
const PACKAGES: [&str; 2] = ["grpcio==1.85.3", "websockets==17.4"];

/// The time that pip may take, which downloads a few MB at first.
const INSTALLING: Duration = Duration::from_secs(180);

/// The time that a program may take.
const RUNNING: Duration = Duration::from_secs(60);

/// An interpreter with packages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Python(&'static Path);

impl Python {
    /// Installs the packages, once for all tests. Skips the test if there is no pip, which CI does not
    /// allow.
    pub(crate) async fn new() -> Option<Self> {
        static INSTALLED: OnceCell<Option<PathBuf>> = OnceCell::const_new();
        let directory = INSTALLED.get_or_init(|| install(&PACKAGES)).await;
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

/// Installs packages into the directory that cargo keeps for tests, where later runs find them. It must
/// not run twice at once. Skips the test as [`Python::new`] does.
pub(crate) async fn install(packages: &[&str]) -> Option<PathBuf> {
    let name = packages.join("-").replace("==", "-");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if directory.exists() {
        return Some(directory);
    }
    let unfinished = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--target",
    ]);
    pip.arg(unfinished.path()).args(packages);
    let why = match timeout(INSTALLING, pip.output()).await {
        Ok(Ok(output)) if output.status.success() => {
            fs::rename(unfinished.keep(), &directory).unwrap();
            return Some(directory);
        }
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "pip took too long".to_owned(),
    };
    let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    assert!(
        !ci,
        "CI needs Python and pip for the tests with applications: {why}"
    );
    harness::skip(&format!(
        "a test with {} needs python3 and pip: {why}",
        packages.join(" and ")
    ));
    None
}
