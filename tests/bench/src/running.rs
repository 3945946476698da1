//! Runs the processes of a stack and reads their use of CPU time and memory.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use harness::process::Process;
use nix::sys::signal::Signal;
use tokio::{net::TcpStream, process::Command, time::sleep};

/// The longest time from exec to the first accepted connection.
const START: Duration = Duration::from_secs(20);
/// The interval between two attempts to connect, which is the resolution of the start times.
const RETRY: Duration = Duration::from_millis(1);

/// Holds a stack that accepts connections. Dropping it kills its processes.
pub(crate) struct Running {
    /// The processes, the one that the load is sent to last.
    processes: Vec<Process>,
    /// The port that the load is sent to.
    pub(crate) port: u16,
    /// The time from exec to the first accepted connection, for each process.
    pub(crate) start: Vec<Duration>,
}

impl Running {
    /// Returns a stack without processes, whose proxy will listen on `port`.
    pub(crate) fn new(port: u16) -> Self {
        Self {
            processes: Vec::new(),
            port,
            start: Vec::new(),
        }
    }

    /// Starts one more process and waits until it accepts connections on `port`.
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

    /// Returns the user and system time of all processes so far.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.processes.iter().map(Process::cpu_time).sum()
    }

    /// Returns the sum of the peak memory of its processes, in MiB.
    pub(crate) fn peak_mib(&self) -> f64 {
        self.peaks_mib().iter().sum()
    }

    /// Returns the peak memory of each of its processes, in MiB.
    pub(crate) fn peaks_mib(&self) -> Vec<f64> {
        let kib = self.processes.iter().map(Process::peak_memory);
        kib.map(|kib| kib as f64 / 1024.0).collect()
    }

    /// Stops its processes by SIGTERM, the proxy first.
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
