//! The notice of a new token: a program or a signal.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use process::{notify, sandbox};
use tokio::{
    process::Command,
    sync::Notify,
    task::{JoinSet, spawn_blocking},
    time::timeout,
};
use tracing::{debug, warn};

/// The longest file with a process ID, in bytes, and the longest time for reading it.
const MAX: u64 = 64;
const READING: Duration = Duration::from_secs(5);

/// The notice of a new token.
#[derive(Clone, Debug)]
pub(super) enum After {
    /// A program, and the longest time that it may take.
    Command(CommandLine, Duration),
    /// A signal to the process whose ID is in a file.
    Signal(Signal, PathBuf),
}

/// A program with its arguments. It runs without a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CommandLine {
    program: String,
    arguments: Vec<String>,
}

/// Gives notice of new tokens, one after another. Dropping it ends that, and leaves a program running that
/// has begun.
#[derive(Debug)]
pub(super) struct Notices {
    wanted: Arc<Notify>,
    _task: JoinSet<()>,
}

impl Notices {
    pub(super) fn new(after: After) -> Self {
        let wanted = Arc::new(Notify::new());
        let mut task = JoinSet::new();
        let next = Arc::clone(&wanted);
        task.spawn(async move {
            loop {
                next.notified().await;
                match after.run().await {
                    Ok(()) => debug!("{after} is done"),
                    Err(error) => warn!("{after}: {error:#}"),
                }
            }
        });
        Self {
            wanted,
            _task: task,
        }
    }

    /// Gives notice, after the one that is under way if there is one.
    pub(super) fn give(&self) {
        self.wanted.notify_one();
    }
}

impl After {
    /// Checks that the program exists. A process that gets a signal may start later than this one.
    ///
    /// # Errors
    /// Fails with the remedy when there is no such program.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        match self {
            Self::Command(command, _) if !command.exists() => {
                bail!("{self}: there is no such program; give its path, for example /usr/bin/touch")
            }
            _ => Ok(()),
        }
    }

    async fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::Command(command, longest) => command.run(*longest).await,
            Self::Signal(signal, pid_file) => {
                // A read from a pipe could wait without end, and this thread also keeps the token.
                let pid_file = pid_file.clone();
                let read = timeout(READING, spawn_blocking(move || beginning(&pid_file))).await;
                let read = read.with_context(|| {
                    format!(
                        "cannot read --token-pid-file within {READING:?}; it must be a regular file"
                    )
                })??;
                let text = read.map_err(|error| {
                    let error = sandbox::explained(&error);
                    anyhow::anyhow!("cannot read --token-pid-file: {error}")
                })?;
                Ok(kill(pid(&text)?, *signal)?)
            }
        }
    }
}

/// Returns the text of a file, or the beginning of a long one.
fn beginning(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Returns the process ID in the text of a file.
fn pid(text: &str) -> anyhow::Result<Pid> {
    // 0 and negative numbers mean groups of processes.
    let id = text.trim().parse::<i32>().ok().filter(|&id| id > 0);
    let id = id.context("--token-pid-file does not have the ID of a process")?;
    Ok(Pid::from_raw(id))
}

impl CommandLine {
    /// Runs the program in a process group of its own, which is killed when the time is over.
    async fn run(&self, longest: Duration) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null());
        for variable in notify::VARIABLES {
            command.env_remove(variable);
        }
        let mut child = command.process_group(0).spawn()?;
        let id = child.id().map(u32::cast_signed).map(Pid::from_raw);
        let Ok(status) = timeout(longest, child.wait()).await else {
            match id.map_or(Ok(()), |id| killpg(id, Signal::SIGKILL)) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => warn!("{self}: cannot kill it: {error}"),
            }
            child.wait().await?;
            let longest = humantime::format_duration(longest);
            bail!("killed, because it was not done within {longest} (--token-command-timeout)");
        };
        let status = status?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }

    /// Returns whether the program can be run, by its path or by its name in `PATH`.
    fn exists(&self) -> bool {
        let program = Path::new(&self.program);
        if self.program.contains('/') {
            return is_executable(program);
        }
        let directories = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&directories).any(|one| is_executable(&one.join(program)))
    }
}

fn is_executable(path: &Path) -> bool {
    let metadata = fs::metadata(path);
    metadata.is_ok_and(|one| one.is_file() && one.permissions().mode() & 0o111 != 0)
}

impl FromStr for CommandLine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_ascii_whitespace().map(str::to_owned);
        let program = words.next();
        Ok(Self {
            program: program
                .ok_or("it has no program; expected for example 'systemctl reload app'")?,
            arguments: words.collect(),
        })
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program)
    }
}

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(command, _) => write!(f, "--token-command {command}"),
            Self::Signal(signal, pid_file) => {
                let pid_file = pid_file.display();
                write!(f, "--token-signal {signal} to the process in {pid_file}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(text: &str) -> CommandLine {
        text.parse().unwrap()
    }

    #[test]
    fn a_command_is_words_and_must_exist() {
        let parsed = command("  sh -c  $(x) ");
        assert_eq!(parsed.program, "sh");
        assert_eq!(parsed.arguments, ["-c", "$(x)"]);
        for (text, exists) in [
            ("sh", true),
            ("/bin/sh -c x", true),
            ("no-such-program", false),
            ("/etc/passwd", false),
            ("/bin", false),
        ] {
            let after = After::Command(command(text), Duration::from_secs(1));
            assert_eq!(after.check().is_ok(), exists, "{text}");
        }
    }

    #[test]
    fn only_the_id_of_one_process_gets_a_signal() {
        assert_eq!(pid(" 17\n").unwrap(), Pid::from_raw(17));
        for text in ["", "0", "-1", "1 2", "99999999999", "x"] {
            assert!(pid(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_program_fails_by_its_status_or_by_its_time() {
        let long = Duration::from_secs(30);
        assert!(command("true").run(long).await.is_ok());
        let error = command("false").run(long).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 1"), "{error}");
        let short = Duration::from_millis(10);
        let error = command("sleep 60").run(short).await.unwrap_err();
        assert!(error.to_string().contains("killed"), "{error}");
    }
}
