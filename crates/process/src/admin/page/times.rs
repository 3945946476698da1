//! Times in words, for people.

use std::time::{Duration, SystemTime};

/// Returns the time from `then` to `now`.
pub(super) fn since(then: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_default()
}

/// Returns a duration in its two largest units, for people.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)];
    let first = units
        .iter()
        .position(|(_, unit)| seconds >= *unit)
        .unwrap_or(3);
    let mut left = seconds;
    let mut parts = Vec::new();
    for (name, unit) in units.iter().skip(first).take(2) {
        parts.push(format!("{} {name}", left / unit));
        left %= unit;
    }
    if parts.len() > 1 && parts[1].starts_with("0 ") {
        parts.pop();
    }
    parts.join(" ")
}
