use std::time::{Duration, UNIX_EPOCH};

use super::*;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn stream(state: StreamState) -> StreamStatus {
    StreamStatus {
        stream: Stream::JwtBundles,
        state,
        since: at(50),
    }
}

fn degraded(reason: Degradation) -> Readiness {
    let until = at(200);
    Readiness::Degraded { reason, until }
}

/// Returns the state, the reason and the end of a condition.
fn parts(condition: Condition) -> (State, String, Option<SystemTime>) {
    (condition.state, condition.reason, condition.until)
}

#[test]
fn identity_says_what_it_waits_for_and_why_it_was_lost() {
    let waiting = || stream(StreamState::Waiting(Some("no such socket".to_owned())));
    let withdrawn = Readiness::NotReady(Unready::Withdrawn("no entry".to_owned()));
    for (readiness, streams, state, reason, until) in [
        (
            None,
            vec![],
            State::Lost,
            "waiting for the Workload API",
            None,
        ),
        (
            None,
            vec![stream(StreamState::Up), waiting()],
            State::Lost,
            "waiting for the Workload API: JWT bundles: no such socket",
            None,
        ),
        (
            Some(Readiness::Ready),
            vec![],
            State::Met,
            "spiffe://a/b",
            None,
        ),
        (
            Some(degraded(Degradation::Expiring)),
            vec![],
            State::Degraded,
            "no new X.509-SVID has come; the current one is in use until it expires",
            Some(at(200)),
        ),
        (
            Some(withdrawn),
            vec![],
            State::Lost,
            "withdrawn by the Workload API: no entry",
            None,
        ),
    ] {
        let condition = identity(
            readiness.as_ref(),
            Some("spiffe://a/b".to_owned()),
            &streams,
        );
        assert_eq!(parts(condition), (state, reason.to_owned(), until));
    }
}

#[test]
fn stream_that_is_down_is_lost_once_nothing_may_be_used() {
    let down = || {
        vec![
            stream(StreamState::Up),
            stream(StreamState::Down("gone".to_owned())),
        ]
    };
    let expired = Readiness::NotReady(Unready::Expired);
    for (readiness, streams, state, until) in [
        (None, vec![], State::Lost, None),
        (
            None,
            vec![stream(StreamState::Waiting(None))],
            State::Lost,
            None,
        ),
        (
            Some(Readiness::Ready),
            vec![stream(StreamState::Up)],
            State::Met,
            None,
        ),
        (Some(Readiness::Ready), down(), State::Degraded, None),
        (
            Some(degraded(Degradation::Outage)),
            down(),
            State::Degraded,
            Some(at(200)),
        ),
        (Some(expired), down(), State::Lost, None),
    ] {
        let condition = workload_api(readiness.as_ref(), &streams, at(10));
        assert_eq!(
            (condition.state, condition.until),
            (state, until),
            "{condition:?}"
        );
        let since = if streams.is_empty() { 10 } else { 50 };
        assert_eq!(condition.since, Some(at(since)));
    }
}

#[test]
fn svid_is_met_until_it_expires_and_lost_without_one() {
    let svid = Some(("0a", at(200)));
    for (readiness, svid, state, reason) in [
        (None, None, State::Lost, "none has come"),
        (
            Some(Readiness::Ready),
            svid,
            State::Met,
            "serial 0a, expires 1970-01-01T00:03:20Z",
        ),
        (
            Some(degraded(Degradation::Outage)),
            svid,
            State::Met,
            "serial 0a, expires 1970-01-01T00:03:20Z",
        ),
        (
            Some(degraded(Degradation::Expiring)),
            svid,
            State::Degraded,
            "serial 0a, expires 1970-01-01T00:03:20Z",
        ),
        (
            Some(Readiness::NotReady(Unready::Expired)),
            svid,
            State::Lost,
            "expired; serial 0a, expires 1970-01-01T00:03:20Z",
        ),
    ] {
        let (found, said, _) = parts(x509_svid(readiness.as_ref(), svid));
        assert_eq!((found, said.as_str()), (state, reason));
    }
}

#[test]
fn list_of_trust_domains_is_bounded() {
    let domains: Vec<_> = (0..10)
        .map(|n| TrustDomain::new(format!("d{n}.example")).unwrap())
        .collect();
    let all: Vec<_> = domains.iter().collect();
    assert_eq!(listed(&all[..2]), "d0.example, d1.example");
    assert!(listed(&all).ends_with("d7.example and 2 more"));
    assert_eq!(listed(&[]), "no trust domain has a bundle");
}
