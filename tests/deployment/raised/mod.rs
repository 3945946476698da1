//! Each alert of `deploy/prometheus/alerts.yml` is raised by a real process in the state that it is about.
//! Prometheus scrapes the process. `/ready`, the metrics and the log of the process have the cause.

/// Alerts about the identity of a process.
mod identity;
/// Alerts about limits and refusals.
mod load;
/// Alerts about upstreams.
mod upstreams;

use std::time::Duration;

/// The time that a minute of the rules takes.
const MINUTE: Duration = Duration::from_millis(600);

async fn nothing() {}
