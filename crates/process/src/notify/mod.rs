//! The state of this process for a service manager that has started it, such as systemd (sd_notify(3)).
//!
//! - `socket`: the datagrams
//! - [`ServiceManager`]: the state, and the status line for people
//! - `follow`: the tasks that tell of the identity, of a stop, and that the cores run
//!
//! # Alternatives
//!
//! The crate `sd-notify` (0.5) reads the environment and opens a socket for each state, which makes four system
//! calls in place of one. A sandboxed process can't connect to an abstract name any more. Its sends also have no
//! time limit, so that a manager with a full queue would stop the main thread.

mod follow;
mod socket;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{lock::lock, workload::Readiness};
use nix::time::{ClockId, clock_gettime};

use self::socket::NotifySocket;
pub(crate) use self::socket::connect;
pub use self::socket::{VARIABLES, is_connected};
use crate::admin::conditions::cut_reason;

/// A service manager that follows the state of this process, or none. Clones report to the same one.
#[derive(Clone, Debug, Default)]
pub struct ServiceManager(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    socket: Option<&'static NotifySocket>,
    /// The time within which the manager wants a sign of life.
    watchdog: Option<Duration>,
    state: Mutex<State>,
}

/// The status of a process that has no identity yet.
pub(crate) const WAITING: &str = "waiting for an identity from the Workload API";

/// The part of its life in which a process is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Starting,
    Ready,
    Stopping,
}

/// The state that was told last.
#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// The text about what the process does.
    work: String,
    /// The text about the policy, if it comes from a file.
    policy: Option<String>,
    /// The text about an identity that is not ready.
    identity: Option<String>,
}

impl ServiceManager {
    /// Returns the manager that the environment names.
    #[must_use]
    pub fn from_environment() -> Self {
        Self(Arc::new(Inner {
            socket: NotifySocket::from_environment(),
            watchdog: socket::watchdog(),
            state: Mutex::default(),
        }))
    }

    /// Tells what the process waits for at its start. The manager waits for `longest` in any case.
    pub fn starting(&self, work: &str, longest: Duration) {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}", longest.as_micros()));
        self.waiting(work);
    }

    /// Tells what the process waits for.
    pub fn waiting(&self, work: &str) {
        if self.enter(None, work) {
            self.send(&self.status());
        }
    }

    /// Tells that the process is ready, and what it does.
    pub fn ready(&self, work: &str) {
        if self.enter(Some(Phase::Ready), work) {
            self.send(&format!("READY=1\n{}", self.status()));
        }
    }

    /// Tells that the process reads its policy again.
    pub fn reloading(&self) {
        // A process that is not ready yet is starting for the manager, and not reloading.
        if lock(&self.0.state).phase == Phase::Ready {
            let now = monotonic_microseconds();
            self.send(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
        }
    }

    /// Tells the outcome of the first reading of the policy, or of the one that [`Self::reloading`] began.
    pub fn policy(&self, outcome: &str) {
        let is_ready = {
            let mut state = lock(&self.0.state);
            state.policy = Some(outcome.to_owned());
            state.phase == Phase::Ready
        };
        let ready = if is_ready { "READY=1\n" } else { "" };
        self.send(&format!("{ready}{}", self.status()));
    }

    /// Tells that the process stops. The manager waits for `longest` in any case.
    fn stopping(&self, longest: Duration) {
        if self.enter(
            Some(Phase::Stopping),
            "stopping: finishing what is in flight",
        ) {
            let longest = longest.as_micros();
            let status = self.status();
            self.send(&format!(
                "STOPPING=1\nEXTEND_TIMEOUT_USEC={longest}\n{status}"
            ));
        }
    }

    /// Records the work, and another phase if there is one. Returns false once the process stops, because nothing
    /// is told after that.
    fn enter(&self, phase: Option<Phase>, work: &str) -> bool {
        let mut state = lock(&self.0.state);
        if state.phase == Phase::Stopping {
            return false;
        }
        state.phase = phase.unwrap_or(state.phase);
        work.clone_into(&mut state.work);
        true
    }

    /// Tells the state of the identity, if the text about it has changed.
    fn identity(&self, readiness: &Readiness) {
        let text = match readiness {
            Readiness::Ready => None,
            readiness => Some(readiness.to_string()),
        };
        if std::mem::replace(&mut lock(&self.0.state).identity, text.clone()) != text {
            self.send(&self.status());
        }
    }

    fn status(&self) -> String {
        lock(&self.0.state).to_string()
    }

    fn send(&self, state: &str) {
        if let Some(socket) = self.0.socket {
            socket.send(state);
        }
    }
}

/// Writes the line for people.
impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "STATUS={}", cut_reason(&self.work))?;
        for text in [&self.policy, &self.identity].into_iter().flatten() {
            write!(f, "; {}", cut_reason(text))?;
        }
        Ok(())
    }
}

/// Returns the time of `CLOCK_MONOTONIC` in microseconds, or 0 on a machine without that clock.
fn monotonic_microseconds() -> u128 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.unwrap_or_default().as_micros()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use common::workload::{Degradation, Unready};

    use super::*;

    #[test]
    fn status_is_one_line_about_work_policy_and_identity() {
        let manager = ServiceManager::default();
        manager.waiting("can't start yet:\nREADY=1");
        assert_eq!(manager.status(), r"STATUS=can't start yet:\nREADY=1");
        manager.ready("listening on [::]:8080");
        manager.policy("5 rules in force");
        assert_eq!(
            manager.status(),
            "STATUS=listening on [::]:8080; 5 rules in force"
        );
        manager.identity(&Readiness::Degraded {
            reason: Degradation::Outage,
            until: SystemTime::now() + Duration::from_millis(90_900),
        });
        let status = manager.status();
        assert!(
            status.contains("; lost the Workload API; ") && status.ends_with("for 1m 30s"),
            "{status}"
        );
        manager.identity(&Readiness::NotReady(Unready::Expired));
        assert!(manager.status().contains("; the X.509-SVID has expired"));
        manager.identity(&Readiness::Ready);
        manager.stopping(Duration::from_secs(1));
        manager.ready("listening again");
        assert_eq!(
            manager.status(),
            "STATUS=stopping: finishing what is in flight; 5 rules in force"
        );
    }

    #[test]
    fn clock_of_a_reload_is_the_one_since_the_boot() {
        let first = monotonic_microseconds();
        assert!(first > 0 && monotonic_microseconds() >= first);
    }
}
