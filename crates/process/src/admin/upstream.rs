//! The conditions of an upstream's endpoints.

use forward::outbound::{Ejection, EndpointStatus};

use super::conditions::{Condition, State};

/// The most endpoints that have a condition of their own.
const MAX_ENDPOINTS: usize = 50;

/// Returns the conditions of the endpoints, whose names begin with `prefix`. An ejected one is lost if there is
/// no other.
pub(super) fn conditions(
    prefix: &str,
    endpoints: &[EndpointStatus],
    unresolved: Option<String>,
) -> Vec<Condition> {
    if endpoints.is_empty() {
        let (state, reason) = match unresolved {
            Some(reason) => (State::Lost, reason),
            None => (
                State::Met,
                "its name is looked up for the first request".to_owned(),
            ),
        };
        return vec![Condition::new(prefix, state, reason)];
    }
    let ejected = if endpoints.iter().all(|one| one.ejected.is_some()) {
        State::Lost
    } else {
        State::Degraded
    };
    let one = |endpoint: &EndpointStatus| {
        let (state, reason) = match &endpoint.ejected {
            Some(ejection) => (ejected, ejection_text(ejection)),
            None => (State::Met, connected(endpoint)),
        };
        Condition::new(format!("{prefix}/{}", endpoint.at), state, reason)
    };
    // Ejected endpoints come first, so that the listed ones decide the state as all do.
    let mut listed: Vec<_> = endpoints.iter().collect();
    listed.sort_by_key(|endpoint| endpoint.ejected.is_none());
    listed.truncate(MAX_ENDPOINTS);
    listed.sort_by(|a, b| a.at.cmp(&b.at));
    listed.into_iter().map(one).collect()
}

fn ejection_text(ejection: &Ejection) -> String {
    let Ejection { left, reason } = ejection;
    format!("ejected, tried again in {} s: {reason}", left.as_secs())
}

fn connected(endpoint: &EndpointStatus) -> String {
    let EndpointStatus {
        connections,
        requests,
        ..
    } = endpoint;
    match connections + requests {
        0 => "not connected; the next request connects".to_owned(),
        _ => format!("connected, open connections: {connections}, requests in flight: {requests}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn endpoint(at: &str, connections: usize, is_ejected: bool) -> EndpointStatus {
        EndpointStatus {
            at: at.to_owned(),
            connections,
            requests: 0,
            ejected: is_ejected.then(|| Ejection {
                left: Duration::from_millis(2500),
                reason: "refused".to_owned(),
            }),
        }
    }

    fn shown(endpoints: &[EndpointStatus], unresolved: Option<&str>) -> Vec<String> {
        let conditions = conditions("upstream", endpoints, unresolved.map(str::to_owned));
        let shown = conditions.into_iter();
        shown
            .map(|one| format!("{} {} {}", one.name, one.state, one.reason))
            .collect()
    }

    #[test]
    fn ejected_endpoint_is_lost_only_without_another() {
        let idle = endpoint("https://a/", 0, false);
        let connected = endpoint("https://b/", 2, false);
        let ejected = endpoint("https://c/", 0, true);
        let said_idle = "upstream/https://a/ met not connected; the next request connects";
        let said_connected =
            "upstream/https://b/ met connected, open connections: 2, requests in flight: 0";
        let said =
            |state| format!("upstream/https://c/ {state} ejected, tried again in 2 s: refused");
        for (endpoints, expected) in [
            (vec![idle.clone()], vec![said_idle.to_owned()]),
            (vec![ejected.clone()], vec![said("lost")]),
            (
                vec![connected, ejected.clone()],
                vec![said_connected.to_owned(), said("degraded")],
            ),
            (
                vec![ejected, idle],
                vec![said_idle.to_owned(), said("degraded")],
            ),
        ] {
            assert_eq!(shown(&endpoints, None), expected);
        }
    }

    #[test]
    fn name_that_cannot_be_looked_up_is_lost_and_one_that_was_not_needed_is_met() {
        assert_eq!(shown(&[], Some("no address")), ["upstream lost no address"]);
        assert!(shown(&[], None)[0].starts_with("upstream met"));
    }

    #[test]
    fn ejected_endpoints_are_among_the_listed_ones() {
        let mut many: Vec<_> = (0..200)
            .map(|n| endpoint(&format!("{n:03}"), 1, false))
            .collect();
        many.push(endpoint("999", 0, true));
        let listed = shown(&many, None);
        assert_eq!(listed.len(), MAX_ENDPOINTS);
        assert!(listed[MAX_ENDPOINTS - 1].starts_with("upstream/999 degraded"));
    }
}
