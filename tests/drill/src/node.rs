//! A process of a stack.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    net::TcpListener,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use harness::{binary, process, process::Process};
use nix::sys::signal::Signal;
use tokio::time::sleep;

/// Every wait takes less time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// A server logs this for each request that it answers 200.
const SERVED: &str = "Request received";
/// The interval between two checks of a condition.
const LOOK: Duration = Duration::from_millis(2);

/// Holds a process that can be started again with the same arguments.
pub(crate) struct Node {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    endpoint: String,
    log: PathBuf,
    /// The socket that is handed over to the process, if any.
    listener: Option<TcpListener>,
    process: Process,
}

impl Node {
    /// Starts a process and waits until it listens. Its log is a file in `directory`.
    pub(crate) async fn start(
        directory: &Path,
        endpoint: &str,
        name: &str,
        args: Vec<String>,
        listener: Option<TcpListener>,
    ) -> Result<Self> {
        let count = fs::read_dir(directory)?.count();
        let log = directory.join(format!("{count}-{name}.log"));
        let program = binary(name);
        let process = spawn(&program, &args, endpoint, &log, listener.as_ref())?;
        let node = Self {
            name: name.to_owned(),
            program,
            args,
            endpoint: endpoint.to_owned(),
            log,
            listener,
            process,
        };
        node.logged("listening on", 0).await?;
        Ok(node)
    }

    /// Starts the process again and waits until it listens. Returns the process before, which may
    /// still run.
    pub(crate) async fn start_again(&mut self) -> Result<Process> {
        let written = self.written();
        let listener = self.listener.as_ref();
        let next = spawn(
            &self.program,
            &self.args,
            &self.endpoint,
            &self.log,
            listener,
        )?;
        let last = std::mem::replace(&mut self.process, next);
        self.logged("listening on", written).await?;
        Ok(last)
    }

    /// Stops the process by SIGTERM, and fails unless it exits with status 0.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        stop(&self.name, &mut self.process).await
    }

    /// Kills the process.
    pub(crate) async fn kill(&mut self) {
        self.process.signal(Signal::SIGKILL);
        self.process.ended().await;
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the port that it listens on.
    pub(crate) fn port(&self) -> Result<u16> {
        let log = fs::read_to_string(&self.log)?;
        let line = log
            .lines()
            .rev()
            .find(|line| line.contains(process::LISTENING));
        Ok(process::port(line.context("it does not listen")?))
    }

    /// Returns the size of its log in bytes.
    pub(crate) fn written(&self) -> usize {
        fs::metadata(&self.log).map_or(0, |log| log.len() as usize)
    }

    /// Returns its log lines after the first `written` bytes, except those of requests.
    pub(crate) fn log_since(&self, written: usize) -> Result<Vec<String>> {
        let log = fs::read(&self.log)?;
        let log = String::from_utf8_lossy(log.get(written..).unwrap_or_default()).into_owned();
        let is_request = |line: &&str| line.contains(SERVED) || line.contains(" GET / ");
        Ok(log
            .lines()
            .filter(|line| !is_request(line))
            .map(str::to_owned)
            .collect())
    }

    /// Returns whether it has answered a request after the first `written` bytes of its log.
    pub(crate) fn has_served_since(&self, written: usize) -> Result<bool> {
        let mut log = File::open(&self.log)?;
        log.seek(SeekFrom::Start(written as u64))?;
        let mut text = Vec::new();
        log.read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).contains(SERVED))
    }

    /// Waits until it has logged `text` after the first `written` bytes of its log.
    pub(crate) async fn logged(&self, text: &str, written: usize) -> Result<()> {
        let begun = Instant::now();
        while !self
            .log_since(written)?
            .iter()
            .any(|line| line.contains(text))
        {
            if begun.elapsed() > PATIENCE {
                let log = self.log_since(written)?.join("\n");
                bail!("{} did not log {text:?} in time:\n{log}", self.name);
            }
            sleep(LOOK * 5).await;
        }
        Ok(())
    }

    /// Returns its resident memory in KiB and its number of open files.
    pub(crate) fn usage(&self) -> Result<(u64, usize)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|text| text.split_whitespace().next()?.parse().ok());
        Ok((resident.context("no VmRSS")?, self.open_files()?))
    }

    /// Returns its soft limit of open files.
    pub(crate) fn max_open_files(&self) -> Result<u64> {
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.pid()))?;
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"));
        let soft = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        soft.context("no limit of open files")
    }

    pub(crate) fn open_files(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }
}

/// Stops a process by SIGTERM, and fails unless it exits with status 0.
pub(crate) async fn stop(name: &str, process: &mut Process) -> Result<()> {
    process.signal(Signal::SIGTERM);
    let status = process.ended().await;
    ensure!(status.success(), "{name} ended with {status}");
    Ok(())
}

/// Waits until `wanted` returns a value. Returns the value and the time that it took.
pub(crate) async fn until<T>(mut wanted: impl AsyncFnMut() -> Option<T>) -> Result<(T, Duration)> {
    let begun = Instant::now();
    loop {
        if let Some(value) = wanted().await {
            return Ok((value, begun.elapsed()));
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "nothing happened within {PATIENCE:?}"
        );
        sleep(LOOK).await;
    }
}

fn spawn(
    program: &Path,
    args: &[String],
    endpoint: &str,
    log: &Path,
    listener: Option<&TcpListener>,
) -> Result<Process> {
    // The socket is file 3, as with systemd (sd_listen_fds(3)). The shell becomes the program.
    const HAND_OVER: &str =
        r#"exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$0" "$@""#;
    let mut command = match listener {
        None => process::command(program, endpoint, args),
        Some(_) => {
            let shell = [
                "-c".to_owned(),
                HAND_OVER.to_owned(),
                program.display().to_string(),
            ];
            process::command(Path::new("/bin/sh"), endpoint, &[&shell, args].concat())
        }
    };
    if let Some(listener) = listener {
        command.stdin(Stdio::from(OwnedFd::from(listener.try_clone()?)));
    }
    let log = File::options().create(true).append(true).open(log)?;
    command.stdout(Stdio::null()).stderr(log);
    Ok(Process::spawn_unread(command))
}
