//! A process of ours: its log as it comes, its port, its end.

use std::{
    ffi::OsStr,
    net::TcpListener,
    path::Path,
    process::{ExitStatus, Output, Stdio},
};

use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::watch,
    time::timeout,
};

use crate::{PATIENCE, binary};

/// A running process; killed when dropped.
pub struct Process {
    child: Child,
    log: watch::Receiver<Vec<String>>,
}

/// As the binaries' `main` does: the test's own process makes TLS connections too.
pub fn install_crypto_provider() {
    common::tls::install_crypto_provider();
}

/// Raises the limit of open files of the test's own process.
pub fn allow_open_files(files: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(
        hard >= files,
        "this test needs {files} open files, the limit is {hard}"
    );
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// Copies a program to be run. Not by this process: what another thread starts meanwhile would hold
/// the copy open for writing, and the kernel would not run it.
pub fn install(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg(from).arg(to).status();
    assert!(copied.unwrap().success(), "cannot copy {}", from.display());
}

/// A binary with nothing in its environment but the Workload API.
pub fn command(program: &Path, endpoint: &str, args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .env("SPIFFE_ENDPOINT_SOCKET", endpoint)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// As [`command`], by way of a shell.
pub fn in_shell(script: &str, program: &Path, endpoint: &str, args: &[&str]) -> Command {
    let shell = ["-c", script, program.to_str().unwrap()];
    command("/bin/sh".as_ref(), endpoint, &[&shell, args].concat())
}

/// As [`command`], with its standard input passed to it as systemd passes sockets, and its standard
/// output as the second; how many are to be taken is for `LISTEN_FDS` to say.
pub fn activated(program: &Path, endpoint: &str, args: &[&str]) -> Command {
    let script = r#"
        export LISTEN_PID="${LISTEN_PID-$$}"
        exec "$0" "$@" 3<&0 4<&1 0</dev/null 1>/dev/null
    "#;
    in_shell(script, program, endpoint, args)
}

/// What a process that listens says of it, before its port.
pub const LISTENING: &str = "listening on 127.0.0.1:";

/// The port in the log line that has [`LISTENING`].
pub fn port(line: &str) -> u16 {
    let (_, rest) = line.split_once(LISTENING).unwrap();
    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
    port.parse().unwrap()
}

/// Returns ports on which nobody listens now.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// One of our binaries, run to its end.
pub async fn output(name: &str, endpoint: &str, args: &[&str]) -> Output {
    let run = command(&binary(name), endpoint, args).output();
    timeout(PATIENCE, run).await.expect("ends in time").unwrap()
}

impl Process {
    /// Starts `command` and reads its log.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, log) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                sender.send_modify(|log: &mut Vec<String>| log.push(line));
            }
        });
        Self { child, log }
    }

    /// Starts `command` without reading its log, which goes where `command` sends it.
    pub fn spawn_unread(mut command: Command) -> Self {
        Self {
            child: command.spawn().unwrap(),
            log: watch::channel(Vec::new()).1,
        }
    }

    /// The first line of the log that contains `text`, once it is there.
    pub async fn logged(&self, text: &str) -> String {
        let mut log = self.log.clone();
        let found = |log: &Vec<String>| log.iter().any(|line| line.contains(text));
        match timeout(PATIENCE, log.wait_for(found)).await {
            Ok(Ok(log)) => log
                .iter()
                .find(|line| line.contains(text))
                .cloned()
                .unwrap(),
            _ => panic!("the log never had {text:?}:\n{}", self.log().join("\n")),
        }
    }

    /// Waits until `count` lines of the log contain `text`.
    pub async fn logged_times(&self, text: &str, count: usize) {
        let mut log = self.log.clone();
        let found = |log: &Vec<String>| {
            let lines = log.iter().filter(|line| line.contains(text));
            lines.count() >= count
        };
        let waiting = timeout(PATIENCE, log.wait_for(found)).await;
        let came = waiting.is_ok_and(|came| came.is_ok());
        let log = || self.log().join("\n");
        assert!(came, "the log had not {count} times {text:?}:\n{}", log());
    }

    /// Stops the process; its log to the end, where what is not there never was.
    pub async fn whole_log(&mut self) -> String {
        self.signal(Signal::SIGTERM);
        let ended = async { while self.log.changed().await.is_ok() {} };
        timeout(PATIENCE, ended).await.expect("ends in time");
        self.log().join("\n")
    }

    /// The log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }

    /// Waits until the process listens; its port.
    pub async fn listening(&self) -> u16 {
        port(&self.logged(LISTENING).await)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("is running")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
    }

    /// Stops it with SIGTERM and waits for its end.
    pub async fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        self.ended().await;
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait())
            .await
            .expect("ends in time")
            .unwrap()
    }

    /// The most resident memory that it ever had, in KiB.
    pub fn peak_memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The processor time that it has used, in steps of 10 ms.
    pub fn cpu_time(&self) -> std::time::Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().unwrap())
            .sum();
        std::time::Duration::from_millis(ticks * 10)
    }
}
