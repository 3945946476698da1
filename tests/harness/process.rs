//! Starts and stops the workspace's binaries and reads their logs.

use std::{
    ffi::OsStr,
    net::Ipv4Addr,
    path::Path,
    process::{ExitStatus, Output, Stdio},
    sync::Mutex,
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
    net::TcpSocket,
    process::{Child, Command},
    sync::watch,
    time::timeout,
};

use crate::{
    binaries::binary,
    wait::{PATIENCE, until},
};

/// Holds a running process, which is killed when this is dropped.
pub struct Process {
    child: Child,
    log: watch::Receiver<Vec<String>>,
}

/// Installs the crypto provider as the binaries' `main` does, because the test's own process makes TLS
/// connections too.
pub fn install_crypto_provider() {
    common::tls::install_crypto_provider().wait();
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

/// Copies a program by means of `cp`, so that it can be run at once. If this process wrote the
/// copy, another thread's child could inherit the open file, and the kernel would not run it.
pub fn install(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg(from).arg(to).status();
    assert!(copied.unwrap().success(), "cannot copy {}", from.display());
}

/// Returns a command whose environment has only the address of the Workload API.
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

/// Does the same as [`command`], by means of a shell.
pub fn in_shell(script: &str, program: &Path, endpoint: &str, args: &[&str]) -> Command {
    let shell = ["-c", script, program.to_str().unwrap()];
    command("/bin/sh".as_ref(), endpoint, &[&shell, args].concat())
}

/// Does the same as [`command`], and passes two sockets as systemd does: its standard input is the first,
/// its standard output the second. `LISTEN_FDS` says how many the program takes.
pub fn activated(program: &Path, endpoint: &str, args: &[&str]) -> Command {
    let script = r#"
        export LISTEN_PID="${LISTEN_PID-$$}"
        exec "$0" "$@" 3<&0 4<&1 0</dev/null 1>/dev/null
    "#;
    in_shell(script, program, endpoint, args)
}

/// The log of a process that listens has this text before the port.
pub const LISTENING: &str = "listening on 127.0.0.1:";

/// Returns the port in the log line that has [`LISTENING`].
pub fn port(line: &str) -> u16 {
    let (_, rest) = line.split_once(LISTENING).unwrap();
    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
    port.parse().unwrap()
}

/// Returns ports on which nobody listens, so that a connection is refused. What the test starts can listen there, and
/// again after it has stopped. Nobody else gets them: a bound socket holds each one until the test binary ends, and
/// the kernel gives its port neither to a socket that binds port 0 nor to one that connects.
pub fn free_ports<const N: usize>() -> [u16; N] {
    static HELD: Mutex<Vec<TcpSocket>> = Mutex::new(Vec::new());
    [(); N].map(|()| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let port = socket.local_addr().unwrap().port();
        HELD.lock().unwrap().push(socket);
        port
    })
}

/// Starts a binary and reads its log.
pub fn spawn(name: &str, endpoint: &str, args: &[impl AsRef<OsStr>]) -> Process {
    Process::spawn(command(&binary(name), endpoint, args))
}

/// Runs a binary to its end and returns its output.
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

    /// Waits for a log line that contains `text` and returns the first one.
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
        assert!(came, "the log never had {text:?} {count} times:\n{}", log());
    }

    /// Stops the process and returns its log to the end.
    pub async fn whole_log(&mut self) -> String {
        self.signal(Signal::SIGTERM);
        self.log_to_end().await
    }

    /// Waits until the process has closed its log, and returns it.
    pub async fn log_to_end(&mut self) -> String {
        let ended = async { while self.log.changed().await.is_ok() {} };
        timeout(PATIENCE, ended).await.expect("ends in time");
        self.log().join("\n")
    }

    /// Returns the log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }

    /// Waits until the process listens and returns its port.
    pub async fn listening(&self) -> u16 {
        port(&self.logged(LISTENING).await)
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("is running")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
    }

    /// Suspends the process until SIGCONT, and waits until each of its threads has stopped.
    pub async fn suspend(&self) {
        self.signal(Signal::SIGSTOP);
        let threads = format!("/proc/{}/task", self.pid());
        until(async || {
            let mut threads = std::fs::read_dir(&threads).unwrap().flatten();
            threads.all(|thread| {
                let status = std::fs::read_to_string(thread.path().join("status"));
                status.is_ok_and(|status| status.contains("State:\tT"))
            })
        })
        .await;
    }

    /// Stops the process with SIGTERM and waits for its end.
    pub async fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        self.ended().await;
    }

    /// Waits for the end of the process.
    pub async fn ended(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait())
            .await
            .expect("ends in time")
            .unwrap()
    }

    /// Returns the peak of its resident memory in KiB.
    pub fn peak_memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Returns by how much the peak of its resident memory is above `before`, in KiB. The kernel's figure is
    /// approximate and may fall a little.
    pub fn peak_memory_above(&self, before: usize) -> usize {
        self.peak_memory().saturating_sub(before)
    }

    /// Returns the processor time that it has used, in steps of 10 ms.
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
