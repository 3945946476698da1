//! Writes the manual pages and the shell completions of the binaries, from their flags.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;

fn main() -> Result<()> {
    let directory = env::args_os().nth(1).map(PathBuf::from);
    let directory = directory.context("usage: manual DIRECTORY")?;
    write(&directory)
}

/// Writes `NAME.1`, and the completions of bash, zsh and fish, for each binary into `directory`.
fn write(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    for mut command in commands() {
        let name = command.get_name().to_owned();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            generate_to(shell, &mut command, &name, directory)?;
        }
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        fs::write(directory.join(format!("{name}.1")), page)?;
    }
    Ok(())
}

/// Returns the flags of each binary, under the name that its package installs.
fn commands() -> [Command; 3] {
    let named = |command: Command, name: &'static str| command.name(name).bin_name(name);
    [
        named(server::config::Config::command(), "spiffe-jwt-server"),
        named(proxy::config::Config::command(), "spiffe-jwt-proxy"),
        named(client::config::Config::command(), "spiffe-jwt-client"),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

    use super::*;

    #[test]
    fn each_binary_has_a_page_and_completions_with_all_its_flags() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path()).unwrap();
        for command in commands() {
            let name = command.get_name();
            let read = |file: String| fs::read_to_string(directory.path().join(file)).unwrap();
            let page = read(format!("{name}.1")).replace('\\', "");
            let bash = read(format!("{name}.bash"));
            let others = [read(format!("_{name}")), read(format!("{name}.fish"))];
            assert!(
                page.contains(".SH EXAMPLES") || page.contains("Examples:"),
                "{page}"
            );
            for flag in command.get_arguments().filter_map(|flag| flag.get_long()) {
                let flag = format!("--{flag}");
                assert!(page.contains(&flag), "{name}: {flag}");
                assert!(bash.contains(&flag), "{name}: {flag}");
            }
            assert!(others.iter().all(|one| one.contains("workload-api")));
        }
    }
}
