//! Times in words.

use std::time::{Duration, SystemTime};

use humantime::{format_duration, format_rfc3339_seconds};

/// Returns a time and its distance from `now`: `2026-01-01T00:00:00Z (in 5m 12s)`.
#[must_use]
pub fn time(at: SystemTime, now: SystemTime) -> String {
    let distance = match at.duration_since(now) {
        Ok(ahead) => format!("in {}", span(ahead)),
        Err(past) => format!("{} ago", span(past.duration())),
    };
    format!("{} ({distance})", format_rfc3339_seconds(at))
}

/// Returns a duration in whole seconds, rounded down.
#[must_use]
pub fn span(span: Duration) -> String {
    format_duration(Duration::from_secs(span.as_secs())).to_string()
}

/// Returns a list with commas, or `none`.
pub fn list(items: impl IntoIterator<Item = impl ToString>) -> String {
    const MAX: usize = 8;
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    match items.len().saturating_sub(MAX) {
        _ if items.is_empty() => "none".to_owned(),
        0 => items.join(", "),
        more => format!("{} and {more} more", items[..MAX].join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_given_with_their_distance() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let hour = Duration::from_secs(3600);
        assert_eq!(time(now + hour, now), "1970-01-12T14:46:40Z (in 1h)");
        assert_eq!(time(now - hour, now), "1970-01-12T12:46:40Z (1h ago)");
        assert_eq!(time(now, now), "1970-01-12T13:46:40Z (in 0s)");
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(list([] as [&str; 0]), "none");
        assert_eq!(list(["a", "b"]), "a, b");
        assert_eq!(list(1..=10), "1, 2, 3, 4, 5, 6, 7, 8 and 2 more");
    }
}
