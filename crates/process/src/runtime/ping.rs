//! A ping of all cores, which shows that none of them hangs.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use common::lock::lock;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

/// The pings that may wait for a core. A core with more of them does not run.
const MAX_WAITING: usize = 64;

/// A ping, and the answer that it waits for.
type Ping = oneshot::Sender<()>;

/// The cores of a process, which answer pings while they run. Clones have the same cores.
#[derive(Clone, Debug, Default)]
pub struct Cores(Arc<Mutex<Vec<Core>>>);

/// A core by the name of its thread.
#[derive(Debug)]
struct Core {
    name: String,
    pings: mpsc::Sender<Ping>,
}

/// The pings that a core gets.
#[derive(Debug)]
pub(super) struct Pings(mpsc::Receiver<Ping>);

impl Cores {
    /// Adds a core, which must answer the pings from now on.
    pub(super) fn add(&self, name: &str) -> Pings {
        let (sender, pings) = mpsc::channel(MAX_WAITING);
        lock(&self.0).push(Core {
            name: name.to_owned(),
            pings: sender,
        });
        Pings(pings)
    }

    /// Returns whether all cores that run answer within a time. A process without a core yet is alive too.
    pub async fn ping(&self, within: Duration) -> bool {
        self.silent(within).await.is_empty()
    }

    /// Returns the names of the threads of the cores that run and do not answer within a time.
    pub async fn silent(&self, within: Duration) -> Vec<String> {
        let deadline = Instant::now() + within;
        let (mut silent, mut answers) = (Vec::new(), Vec::new());
        {
            let mut cores = lock(&self.0);
            // A core that has drained answers nothing.
            cores.retain(|core| !core.pings.is_closed());
            for Core { name, pings } in &*cores {
                let (ping, answer) = oneshot::channel();
                match pings.try_send(ping) {
                    Ok(()) => answers.push((name.clone(), answer)),
                    Err(mpsc::error::TrySendError::Closed(_)) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => silent.push(name.clone()),
                }
            }
        }
        for (name, answer) in answers {
            // An error in time means that the core has drained.
            if timeout_at(deadline, answer).await.is_err() {
                silent.push(name);
            }
        }
        silent
    }
}

impl Pings {
    /// Answers the pings on the runtime of the core, for as long as that runs.
    pub(super) fn answer(mut self) {
        tokio::spawn(async move {
            while let Some(ping) = self.0.recv().await {
                // The task that sent the ping may have given up.
                let _ = ping.send(());
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(10);

    #[tokio::test]
    async fn cores_are_alive_if_each_that_runs_answers() {
        let cores = Cores::default();
        assert!(cores.ping(LONG).await);
        cores.add("core-0").answer();
        assert!(cores.ping(LONG).await);
        let hangs = cores.add("core-1");
        for _ in 0..=MAX_WAITING {
            assert!(!cores.ping(SHORT).await);
            assert_eq!(cores.silent(SHORT).await, ["core-1"]);
        }
        drop(hangs);
        assert!(cores.ping(LONG).await);
    }
}
