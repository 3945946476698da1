//! Finds programs that a test needs and that are not part of the project. A test without them is skipped,
//! which CI does not allow.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{process::Command, time::timeout};

use crate::skip;

/// The time that pip may take. It downloads a few MB at first.
const INSTALLING: Duration = Duration::from_secs(180);

/// Returns whether a program is installed. Its argument `version` makes it print its version. Skips the test
/// if it is not installed.
pub async fn is_installed(program: &str, version: &str) -> bool {
    let version = Command::new(program).arg(version).output().await;
    let is_installed = version.is_ok_and(|output| output.status.success());
    if !is_installed {
        lacks(&format!("{program}, which is not installed"));
    }
    is_installed
}

/// Builds the Go program in a directory below `tests`, and returns the directory of the executable, which
/// is called `program`. Skips the test if there is no Go.
pub async fn go_program(source: &str) -> Option<TempDir> {
    let directory = tempfile::tempdir().unwrap();
    let mut build = Command::new("go");
    build.args(["build", "-o"]);
    build.arg(directory.path().join("program")).arg(".");
    build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(source));
    match build.output().await {
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "go build failed:\n{errors}");
            Some(directory)
        }
        Err(error) => {
            lacks(&format!("Go (https://go.dev/dl/) for {source}: {error}"));
            None
        }
    }
}

/// Installs packages of Python below `cache`, where later runs find them, and returns their directory. It
/// must not run twice at once. Skips the test if that fails.
pub async fn python_packages(cache: &str, packages: &[&str]) -> Option<PathBuf> {
    let name = packages.join("-").replace("==", "-");
    let directory = Path::new(cache).join(name);
    if directory.exists() {
        return Some(directory);
    }
    let unfinished = tempfile::tempdir_in(cache).unwrap();
    let why = match timeout(INSTALLING, pip(unfinished.path(), packages)).await {
        Ok(Ok(output)) if output.status.success() => {
            // Another run may have put the same packages there meanwhile.
            let renamed = fs::rename(unfinished.path(), &directory);
            assert!(directory.exists(), "{renamed:?}");
            return Some(directory);
        }
        Ok(Ok(output)) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "pip took too long".to_owned(),
    };
    let last = why.lines().last().unwrap_or_default();
    lacks(&format!("Python with {}: {last}", packages.join(" and ")));
    None
}

async fn pip(target: &Path, packages: &[&str]) -> io::Result<Output> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet"]);
    pip.args(["--disable-pip-version-check", "--root-user-action=ignore"]);
    pip.arg("--target").arg(target).args(packages);
    pip.kill_on_drop(true).output().await
}

/// Skips a test that needs something.
///
/// # Panics
/// Panics in CI, which has everything.
pub fn lacks(what: &str) {
    let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    assert!(!ci, "a test in CI needs {what}");
    skip(&format!("a test needs {what}"));
}
