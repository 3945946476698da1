//! Finds the workspace's binaries, and builds them before the first test of a process starts one.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use crate::results::ROOT;

/// The directory of the binaries, or the reason why they could not be built.
static DIRECTORY: LazyLock<Result<PathBuf, &str>> = LazyLock::new(|| {
    if let Some(named) = env::var_os("BINARIES") {
        return Ok(named.into());
    }
    let own = env::current_exe().unwrap();
    let directory = own.parent().unwrap();
    if !directory.ends_with("deps") {
        return Ok(directory.to_owned());
    }
    let directory = directory.parent().unwrap();
    // CARGO is not set if a person or a debugger has started this test.
    if let Some(cargo) = env::var_os("CARGO") {
        let status = build(&cargo, directory).status();
        if !status.is_ok_and(|status| status.success()) {
            return Err("cargo could not build the binaries: its messages are above");
        }
    }
    Ok(directory.to_owned())
});

/// Returns the path of a binary of this workspace. It is in the directory that the environment variable
/// `BINARIES` names, or otherwise in that of the running executable's build.
///
/// The first call in a test builds the binaries that are missing or stale. The bench and the drill
/// use those that their scripts built.
pub fn binary(name: &str) -> PathBuf {
    let directory = DIRECTORY.as_ref().unwrap_or_else(|why| panic!("{why}"));
    let path = directory.join(name);
    path.canonicalize()
        .unwrap_or_else(|_| panic!("{} is not built: run cargo build --bins", path.display()))
}

/// Returns the command that builds the binaries into `directory`, for example `target/debug`.
///
/// It takes less than a second if nothing has changed. `cargo test` has released its lock when tests
/// run, and processes that build at the same time wait for each other.
fn build(cargo: &OsStr, directory: &Path) -> Command {
    let profile = directory.file_name().unwrap();
    let above = directory.parent().unwrap();
    let mut command = Command::new(cargo);
    command
        .args(["build", "--workspace", "--bins", "--locked"])
        .args(["--exclude", "bench", "--exclude", "drill"])
        .arg("--manifest-path")
        .arg(Path::new(ROOT).join("Cargo.toml"))
        .arg("--profile")
        .arg(if profile == "debug" {
            "dev".as_ref()
        } else {
            profile
        });
    // Only the target directory has cargo's file about the compiler. A directory of `--target
    // TRIPLE` is below it.
    if above.join(".rustc_info.json").exists() {
        command.arg("--target-dir").arg(above);
    } else {
        command.arg("--target").arg(above.file_name().unwrap());
        command.arg("--target-dir").arg(above.parent().unwrap());
    }
    command
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn args(directory: &Path) -> Vec<String> {
        let command = build("cargo".as_ref(), directory);
        let args = command
            .get_args()
            .map(|arg| arg.to_str().unwrap().to_owned());
        args.skip_while(|arg| arg != "--profile").collect()
    }

    #[test]
    fn binaries_are_built_where_the_test_is_with_its_profile() {
        let target = tempfile::tempdir().unwrap();
        let path = target.path();
        fs::write(path.join(".rustc_info.json"), "{}").unwrap();
        let target = path.to_str().unwrap();
        for (directory, expected) in [
            ("debug", "--profile dev --target-dir"),
            ("release", "--profile release --target-dir"),
            ("odd/debug", "--profile dev --target odd --target-dir"),
        ] {
            let args = args(&path.join(directory)).join(" ");
            assert_eq!(args, format!("{expected} {target}"), "{directory}");
        }
    }
}
