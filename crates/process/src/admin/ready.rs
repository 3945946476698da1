//! The answer of `/ready`, as text or JSON.

use std::time::SystemTime;

use http::StatusCode;
use humantime::format_rfc3339_seconds;
use serde_json::{Value, json};

use super::conditions::{Condition, Report, State};

/// Returns the status, which is 200 for a degraded process too, because that does its work.
pub(super) fn status(report: &Report) -> StatusCode {
    match report.state() {
        State::Met | State::Degraded => StatusCode::OK,
        State::Lost => StatusCode::SERVICE_UNAVAILABLE,
    }
}

pub(super) fn json(report: &Report) -> Value {
    let one = |condition: &Condition| {
        json!({
            "name": condition.name,
            "state": condition.state.to_string(),
            "reason": condition.reason,
            "since": condition.since.map(time),
            "seconds_left": condition.left(report.now).map(|left| left.as_secs()),
        })
    };
    json!({
        "status": report.state().of_process(),
        "seconds_left": report.left().map(|left| left.as_secs()),
        "pid": std::process::id(),
        "time": time(report.now),
        "conditions": report.conditions.iter().map(one).collect::<Vec<_>>(),
    })
}

/// Returns a report as lines of text: the state, and then each condition.
pub(super) fn text(report: &Report) -> String {
    let mut text = report.state().of_process().to_owned();
    if let Some(left) = report.left() {
        text += &format!(", {} s left", left.as_secs());
    }
    text.push('\n');
    let names = report.conditions.iter().map(|one| one.name.len());
    let width = names.max().unwrap_or_default();
    for condition in &report.conditions {
        let Condition {
            name,
            state,
            reason,
            ..
        } = condition;
        text += &format!(
            "{state:<8}  {name:<width$}  {reason}{}\n",
            times(condition, report.now)
        );
    }
    text
}

/// Returns the times of a condition in parentheses, if there are any.
fn times(condition: &Condition, now: SystemTime) -> String {
    let since = condition
        .since
        .map(|since| format!("since {}", time(since)));
    let left = condition
        .left(now)
        .map(|left| format!("{} s left", left.as_secs()));
    match (since, left) {
        (None, None) => String::new(),
        (Some(one), None) | (None, Some(one)) => format!(" ({one})"),
        (Some(since), Some(left)) => format!(" ({since}, {left})"),
    }
}

/// Returns a time in UTC (RFC 3339).
fn time(time: SystemTime) -> String {
    format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn report() -> Report {
        let conditions = vec![
            Condition::new("identity", State::Met, "spiffe://a/b"),
            Condition::new("workload_api", State::Degraded, "nobody listens")
                .since(at(90))
                .until(Some(at(160))),
        ];
        Report {
            now: at(100),
            conditions,
        }
    }

    #[test]
    fn text_has_a_line_for_each_condition() {
        let expected = "\
degraded, 60 s left
met       identity      spiffe://a/b
degraded  workload_api  nobody listens (since 1970-01-01T00:01:30Z, 60 s left)
";
        assert_eq!(text(&report()), expected);
    }

    #[test]
    fn json_has_state_reason_and_times_of_each_condition() {
        let json = json(&report());
        assert_eq!(json["status"], "degraded");
        assert_eq!(json["seconds_left"], 60);
        assert_eq!(json["conditions"][0]["seconds_left"], Value::Null);
        assert_eq!(json["conditions"][1]["since"], "1970-01-01T00:01:30Z");
        assert_eq!(json["conditions"][1]["state"], "degraded");
    }

    #[test]
    fn only_a_process_that_lost_a_condition_is_unavailable() {
        let mut report = report();
        assert_eq!(status(&report), 200);
        report.conditions[0].state = State::Lost;
        assert_eq!(status(&report), 503);
    }
}
