//! The conditions that follow from the identity of a process.

#[cfg(test)]
mod tests;

use std::time::SystemTime;

use common::workload::{
    BundleFault, Degradation, Kind, Overview, Readiness, Stream, StreamState, StreamStatus, Unready,
};
use spiffe::TrustDomain;

use super::conditions::{Condition, State};

/// The most trust domains that have a condition of their own, or that one condition lists.
const MAX_DOMAINS: usize = 100;
const MAX_LISTED: usize = 8;

/// Returns all conditions of an identity. A process that asks for no identity has none.
pub(super) fn conditions(overview: &Overview) -> Vec<Condition> {
    if overview.streams.is_empty() {
        return Vec::new();
    }
    let readiness = overview.readiness.as_ref();
    let id = overview.svid().map(|svid| svid.spiffe_id().to_string());
    let mut conditions = vec![
        identity(readiness, id, &overview.streams).since(overview.since),
        workload_api(readiness, &overview.streams, overview.since),
    ];
    let follows = |stream| overview.streams.iter().any(|one| one.stream == stream);
    if follows(Stream::X509Svids) {
        let svid = overview.svid().map(|svid| (svid.serial(), svid.expiry()));
        conditions.push(x509_svid(readiness, svid));
    }
    if follows(Stream::X509Svids) || follows(Stream::X509Bundles) {
        conditions.push(trust_bundles(overview));
    }
    if follows(Stream::JwtBundles) {
        jwt_bundles(overview, &mut conditions);
    }
    conditions
}

/// Returns the condition `identity`: whether the identity as a whole can be used.
fn identity(
    readiness: Option<&Readiness>,
    id: Option<String>,
    streams: &[StreamStatus],
) -> Condition {
    let condition = |state, reason: String| Condition::new("identity", state, reason);
    match readiness {
        None => {
            let reason = match waiting(streams) {
                Some(reason) => format!("waiting for the Workload API: {reason}"),
                None => "waiting for the Workload API".to_owned(),
            };
            condition(State::Lost, reason)
        }
        Some(Readiness::Ready) => {
            let id = id.unwrap_or_else(|| "bundles only, and no X.509-SVID".to_owned());
            condition(State::Met, id)
        }
        Some(Readiness::Degraded { reason, until }) => {
            condition(State::Degraded, degradation(*reason)).until(Some(*until))
        }
        Some(Readiness::NotReady(reason)) => condition(State::Lost, unready(reason)),
    }
}

/// Returns the last reason why a stream has not delivered.
fn waiting(streams: &[StreamStatus]) -> Option<String> {
    let mut streams = streams.iter();
    streams.find_map(|one| Some(format!("{}: {}", one.stream.name(), one.obstacle()?)))
}

fn degradation(reason: Degradation) -> String {
    match reason {
        Degradation::Outage => {
            "the Workload API is away; the current SVID and bundles are in use".to_owned()
        }
        Degradation::Refused => {
            "the Workload API sends updates that can't be used; the last good SVID and bundles are in use"
                .to_owned()
        }
        Degradation::Expiring => {
            "no new X.509-SVID has come; the current one is in use until it expires".to_owned()
        }
        other => other.to_string(),
    }
}

fn unready(reason: &Unready) -> String {
    match reason {
        Unready::Withdrawn(reason) => format!("withdrawn by the Workload API: {reason}"),
        other => other.to_string(),
    }
}

/// Returns the condition `workload_api`: whether the streams are up. `begun` is the time since which a missing
/// stream is waited for.
fn workload_api(
    readiness: Option<&Readiness>,
    streams: &[StreamStatus],
    begun: SystemTime,
) -> Condition {
    let condition = |state, reason: String| Condition::new("workload_api", state, reason);
    let down = streams.iter().find_map(|one| match &one.state {
        StreamState::Waiting(reason) => Some((one, reason.as_deref().unwrap_or("no answer yet"))),
        StreamState::Down(reason) => Some((one, reason.as_str())),
        StreamState::Up => None,
    });
    match (down, readiness) {
        (None, None) => condition(State::Lost, "not asked yet".to_owned()).since(begun),
        (None, Some(_)) => {
            let names: Vec<_> = streams.iter().map(|one| one.stream.name()).collect();
            let up = streams.iter().map(|one| one.since).max().unwrap_or(begun);
            condition(State::Met, format!("connected: {}", names.join(", "))).since(up)
        }
        (Some((stream, reason)), readiness) => {
            let (state, until) = match readiness {
                Some(Readiness::Degraded { until, .. }) => (State::Degraded, Some(*until)),
                Some(Readiness::Ready) => (State::Degraded, None),
                Some(Readiness::NotReady(_)) | None => (State::Lost, None),
            };
            condition(state, format!("{}: {reason}", stream.stream.name()))
                .since(stream.since)
                .until(until)
        }
    }
}

/// Returns the condition `x509_svid`: whether the X.509-SVID, given by its serial number and its expiry, can be
/// presented.
fn x509_svid(readiness: Option<&Readiness>, svid: Option<(&str, SystemTime)>) -> Condition {
    let condition = |state, reason: String| Condition::new("x509_svid", state, reason);
    let Some((serial, expiry)) = svid else {
        return condition(State::Lost, "none has come".to_owned());
    };
    let reason = format!(
        "serial {serial}, expires {}",
        humantime::format_rfc3339_seconds(expiry)
    );
    let state = match readiness {
        Some(Readiness::NotReady(Unready::Withdrawn(_))) => {
            return condition(State::Lost, format!("withdrawn; {reason}"));
        }
        Some(Readiness::NotReady(Unready::Expired)) => {
            return condition(State::Lost, format!("expired; {reason}"));
        }
        Some(Readiness::Degraded {
            reason: Degradation::Expiring,
            ..
        }) => State::Degraded,
        _ => State::Met,
    };
    condition(state, reason).until(Some(expiry))
}

/// Returns the condition `trust_bundles`: whether peers can be verified by their certificates.
fn trust_bundles(overview: &Overview) -> Condition {
    let condition = |state, reason: String| Condition::new("trust_bundles", state, reason);
    let until = match overview.readiness {
        Some(Readiness::Degraded { until, .. }) => Some(until),
        _ => None,
    };
    match (overview.trusted(Kind::X509), &overview.readiness) {
        (_, None) => condition(State::Lost, "none has come".to_owned()),
        (Err(reason), _) => condition(State::Lost, reason.to_string()),
        (Ok(domains), _) => {
            let faults = || overview.faults.iter().filter(|one| one.kind == Kind::X509);
            let is_own = |fault: &&BundleFault| overview.own.as_ref() == Some(&fault.trust_domain);
            let Some(fault) = faults().find(is_own).or_else(|| faults().next()) else {
                return condition(State::Met, listed(&domains));
            };
            // Peers of other trust domains are verified as before.
            let state = if is_own(&fault) && !domains.contains(&&fault.trust_domain) {
                State::Lost
            } else {
                State::Degraded
            };
            condition(state, fault_text(fault))
                .since(fault.since)
                .until(until.filter(|_| is_own(&fault)))
        }
    }
}

/// Adds a condition for each trust domain: whether its tokens can be verified.
fn jwt_bundles(overview: &Overview, conditions: &mut Vec<Condition>) {
    let whole = |state, reason: String| Condition::new("jwt_bundles", state, reason);
    let domains = match (overview.trusted(Kind::Jwt), &overview.readiness) {
        (_, None) => return conditions.push(whole(State::Lost, "none has come".to_owned())),
        (Err(reason), _) => return conditions.push(whole(State::Lost, reason.to_string())),
        (Ok(domains), _) => domains,
    };
    let faults = overview.faults.iter().filter(|one| one.kind == Kind::Jwt);
    let faults: Vec<_> = faults.collect();
    for domain in domains.iter().take(MAX_DOMAINS) {
        let fault = faults.iter().find(|one| one.trust_domain == **domain);
        let keys = overview.authorities(Kind::Jwt, domain).len();
        conditions.push(match fault {
            Some(fault) => faulty(fault, State::Degraded),
            None => jwt_bundle(domain, State::Met, format!("keys: {keys}")),
        });
    }
    conditions.extend(without_bundle(overview, &domains, &faults));
    let more = domains.len().saturating_sub(MAX_DOMAINS);
    if more > 0 {
        conditions.push(whole(State::Met, format!("and {more} more trust domains")));
    }
}

/// Returns the conditions of trust domains that have no JWT bundle to verify tokens with.
fn without_bundle(
    overview: &Overview,
    domains: &[&TrustDomain],
    faults: &[&BundleFault],
) -> Vec<Condition> {
    let own = overview.own.as_ref();
    let untrusted = faults
        .iter()
        .filter(|fault| !domains.contains(&&fault.trust_domain));
    let condition = |fault: &&BundleFault| {
        // Callers of other trust domains are served as before.
        let is_own = own == Some(&fault.trust_domain);
        let state = if is_own { State::Lost } else { State::Degraded };
        faulty(fault, state)
    };
    let mut conditions: Vec<_> = untrusted.clone().map(condition).collect();
    if let Some(own) = own.filter(|own| !domains.contains(own))
        && untrusted.clone().all(|fault| fault.trust_domain != *own)
    {
        let reason = "the Workload API sends no JWT bundle of it".to_owned();
        conditions.push(jwt_bundle(own, State::Degraded, reason));
    }
    conditions
}

fn jwt_bundle(domain: &TrustDomain, state: State, reason: String) -> Condition {
    Condition::new(format!("jwt_bundles/{domain}"), state, reason)
}

fn faulty(fault: &BundleFault, state: State) -> Condition {
    jwt_bundle(&fault.trust_domain, state, fault_text(fault)).since(fault.since)
}

fn fault_text(fault: &BundleFault) -> String {
    format!(
        "the bundle of {} can't be used: {}",
        fault.trust_domain, fault.reason
    )
}

/// Returns the names of trust domains, the own one first.
fn listed(domains: &[&TrustDomain]) -> String {
    let names: Vec<_> = domains
        .iter()
        .take(MAX_LISTED)
        .map(ToString::to_string)
        .collect();
    let more = match domains.len().saturating_sub(MAX_LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    if names.is_empty() {
        "no trust domain has a bundle".to_owned()
    } else {
        names.join(", ") + &more
    }
}
