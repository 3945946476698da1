//! The state of an upstream's endpoints on all cores, for operators.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use common::lock::lock;
use tokio::time::Instant;

/// Reads the state of an upstream's endpoints. Each core adds its connections. Clones have the same
/// state.
#[derive(Clone, Default)]
pub struct UpstreamStatus(Arc<Mutex<Vec<Weak<dyn Observed>>>>);

/// The connections of one core to an upstream.
pub(super) trait Observed: Send + Sync {
    /// Returns the state of each endpoint at `now`.
    fn endpoints(&self, now: Instant) -> Vec<EndpointStatus>;

    /// Returns the reason why no name of the upstream has an endpoint, if that is so.
    fn unresolved(&self) -> Option<String>;
}

/// The state of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointStatus {
    /// The URL, and the addresses where the URL does not have them.
    pub at: String,
    /// The connections that are open: shared ones, and those without a request.
    pub connections: usize,
    /// The requests in flight.
    pub requests: usize,
    /// The ejection, if the endpoint is ejected and there is no connection to it.
    pub ejected: Option<Ejection>,
}

/// The ejection of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// The time until the next attempt.
    pub left: Duration,
    /// The failure.
    pub reason: String,
}

impl UpstreamStatus {
    /// Adds the connections of a core, for as long as they exist.
    pub(super) fn add(&self, core: &Arc<impl Observed + 'static>) {
        let core: Weak<dyn Observed> = Arc::downgrade(core) as Weak<dyn Observed>;
        let mut cores = lock(&self.0);
        cores.retain(|one| one.strong_count() > 0);
        cores.push(core);
    }

    /// Returns the state of each endpoint, over all cores.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        let now = Instant::now();
        merged(self.cores().flat_map(|core| core.endpoints(now)))
    }

    /// Returns the reason why no name of the upstream has an endpoint, if that is so.
    #[must_use]
    pub fn unresolved(&self) -> Option<String> {
        self.cores().find_map(|core| core.unresolved())
    }

    fn cores(&self) -> impl Iterator<Item = Arc<dyn Observed>> {
        // The lock is not held while a core is asked.
        let cores = lock(&self.0).clone();
        cores.into_iter().filter_map(|core| core.upgrade())
    }
}

/// Adds up the states of each endpoint on all cores. An endpoint that a core is connected to is not
/// ejected.
fn merged(all: impl Iterator<Item = EndpointStatus>) -> Vec<EndpointStatus> {
    let mut endpoints = BTreeMap::new();
    for one in all {
        let sum = endpoints
            .entry(one.at.clone())
            .or_insert_with(|| EndpointStatus {
                at: one.at.clone(),
                connections: 0,
                requests: 0,
                ejected: None,
            });
        sum.connections += one.connections;
        sum.requests += one.requests;
        sum.ejected = match (sum.ejected.take(), one.ejected) {
            (Some(a), Some(b)) => Some(if a.left < b.left { b } else { a }),
            (a, b) => a.or(b),
        };
    }
    let is_connected = |one: &EndpointStatus| one.connections + one.requests > 0;
    let ejected = |one: EndpointStatus| EndpointStatus {
        ejected: one.ejected.clone().filter(|_| !is_connected(&one)),
        ..one
    };
    endpoints.into_values().map(ejected).collect()
}

impl fmt::Debug for UpstreamStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores = lock(&self.0).len();
        f.debug_struct("UpstreamStatus")
            .field("cores", &cores)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(at: &str, connections: usize, ejected: Option<u64>) -> EndpointStatus {
        EndpointStatus {
            at: at.to_owned(),
            connections,
            requests: 2,
            ejected: ejected.map(|seconds| Ejection {
                left: Duration::from_secs(seconds),
                reason: format!("failed {seconds}"),
            }),
        }
    }

    fn idle(at: &str, ejected: Option<u64>) -> EndpointStatus {
        let requests = 0;
        EndpointStatus {
            requests,
            ..one(at, 0, ejected)
        }
    }

    #[test]
    fn endpoint_is_ejected_unless_a_core_is_connected_to_it() {
        let cores = [
            one("a", 1, None),
            idle("b", Some(3)),
            idle("c", None),
            idle("a", Some(9)),
            idle("b", Some(7)),
            idle("c", Some(1)),
            one("a", 2, None),
        ];
        let found = merged(cores.into_iter());
        let expected = [
            EndpointStatus {
                requests: 4,
                ..one("a", 3, None)
            },
            idle("b", Some(7)),
            idle("c", Some(1)),
        ];
        assert_eq!(found, expected);
    }
}
