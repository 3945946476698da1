//! A stack that runs: its processes, and what they used.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use harness::process::Process;
use nix::sys::signal::Signal;
use tokio::{net::TcpStream, process::Command, time::sleep};

/// How long a process may take to accept its first connection.
const START: Duration = Duration::from_secs(20);
/// How often it is tried: the resolution of the times to start.
const RETRY: Duration = Duration::from_millis(1);

/// A contender that accepts connections. Killed when dropped.
pub(crate) struct Running {
    /// Its processes, the proxy last.
    processes: Vec<Process>,
    /// Where its proxy listens.
    pub(crate) port: u16,
    /// From exec to accepting, for each process.
    pub(crate) start: Vec<Duration>,
}

impl Running {
    /// Nothing yet; its proxy will listen on `port`.
    pub(crate) fn new(port: u16) -> Self {
        Self {
            processes: Vec::new(),
            port,
            start: Vec::new(),
        }
    }

    /// Runs one more process; it accepts connections on `port` when this returns.
    pub(crate) async fn add(&mut self, command: Command, port: u16) -> Result<()> {
        let begin = Instant::now();
        self.processes.push(Process::spawn_unread(command));
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .is_err()
        {
            if begin.elapsed() > START {
                bail!("a process did not listen on port {port} within {START:?}");
            }
            sleep(RETRY).await;
        }
        self.start.push(begin.elapsed());
        Ok(())
    }

    /// User and system time of all its processes so far.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.processes.iter().map(Process::cpu_time).sum()
    }

    /// The most memory that its processes ever had, in MiB, added up.
    pub(crate) fn peak_mib(&self) -> f64 {
        let kib: usize = self.processes.iter().map(Process::peak_memory).sum();
        kib as f64 / 1024.0
    }

    /// Lets its processes end by themselves, the proxy first.
    pub(crate) async fn end(mut self) -> Result<()> {
        for process in self.processes.iter_mut().rev() {
            process.signal(Signal::SIGTERM);
            let status = process.ended().await;
            ensure!(status.success(), "a process ended with {status}");
        }
        Ok(())
    }

    /// Kills its processes.
    pub(crate) async fn stop(mut self) {
        for process in self.processes.iter_mut().rev() {
            process.signal(Signal::SIGKILL);
            process.ended().await;
        }
    }
}
