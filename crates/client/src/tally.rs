//! Counts and times of requests, in memory that does not grow with their number.

use std::{collections::BTreeMap, time::Duration};

use http::StatusCode;
use tokio::time::Instant;

/// Counts and times of requests.
pub(crate) struct Tally {
    began: Instant,
    last_success: Instant,
    longest_gap: Duration,
    /// Requests by status. `None` stands for requests without an answer.
    by_status: BTreeMap<Option<StatusCode>, u64>,
    /// Successes by their duration in tenths of a millisecond, the precision of the summary.
    by_tenths: BTreeMap<u64, u64>,
}

impl Tally {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            began: now,
            last_success: now,
            longest_gap: Duration::ZERO,
            by_status: BTreeMap::new(),
            by_tenths: BTreeMap::new(),
        }
    }

    /// Counts a request that took `took` and ended at `now`.
    pub(crate) fn count(&mut self, status: Option<StatusCode>, took: Duration, now: Instant) {
        *self.by_status.entry(status).or_default() += 1;
        if status.is_some_and(|status| status.is_success()) {
            *self.by_tenths.entry(tenths(took)).or_default() += 1;
            self.longest_gap = self.gap(now);
            self.last_success = now;
        }
    }

    /// Returns whether there was at least one request, and all succeeded.
    pub(crate) fn all_succeeded(&self) -> bool {
        let (ok, failed) = self.ok_and_failed();
        ok > 0 && failed == 0
    }

    /// Returns a summary on one line.
    pub(crate) fn summary(&self, now: Instant) -> String {
        let (ok, failed) = self.ok_and_failed();
        let requests = ok + failed;
        let plural = if requests == 1 { "" } else { "s" };
        let time = (now - self.began).as_secs_f64();
        let gap = self.gap(now).as_secs_f64();
        format!(
            "{requests} request{plural} in {time:.1} s: {ok} ok, {failed} failed{}{}; longest time without success {gap:.1} s",
            self.statuses(failed),
            self.times(ok),
        )
    }

    /// Returns the longest time without success until `now`.
    fn gap(&self, now: Instant) -> Duration {
        self.longest_gap.max(now - self.last_success)
    }

    /// Returns the numbers of successes and failures.
    fn ok_and_failed(&self) -> (u64, u64) {
        let ok = self.by_tenths.values().sum();
        (ok, self.by_status.values().sum::<u64>() - ok)
    }

    /// Returns the number of each status, or nothing if all succeeded.
    fn statuses(&self, failed: u64) -> String {
        if failed == 0 {
            return String::new();
        }
        let answered = |status: StatusCode| status.as_u16().to_string();
        let counts: Vec<_> = self
            .by_status
            .iter()
            .map(|(status, count)| {
                let status = status.map_or_else(|| "no answer".to_owned(), answered);
                format!("{status}: {count}")
            })
            .collect();
        format!(" ({})", counts.join(", "))
    }

    /// Returns the durations of the successes, if there are any.
    fn times(&self, ok: u64) -> String {
        if ok == 0 {
            return String::new();
        }
        let ms = |rank: u64| self.ranked(rank) as f64 / 10.0;
        format!(
            "; ms min {:.1}, median {:.1}, p99 {:.1}, max {:.1}",
            ms(1),
            ms(ok.div_ceil(2)),
            // This is the nearest rank, without a product that could overflow.
            ms(ok - ok / 100),
            ms(ok)
        )
    }

    /// Returns the duration at `rank`, where the shortest has rank 1.
    fn ranked(&self, rank: u64) -> u64 {
        let mut seen = 0;
        let reached = self.by_tenths.iter().find(|(_, count)| {
            seen += **count;
            seen >= rank
        });
        reached.map_or(0, |(tenths, _)| *tenths)
    }
}

fn tenths(took: Duration) -> u64 {
    (took.as_secs_f64() * 10_000.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: Option<StatusCode> = Some(StatusCode::OK);

    /// Returns the summary of one request a second, each with its status and its milliseconds.
    fn summary(requests: &[(Option<StatusCode>, f64)]) -> (String, bool) {
        let began = Instant::now();
        let mut now = began;
        let mut tally = Tally::new(began);
        for (status, ms) in requests {
            let took = Duration::from_secs_f64(ms / 1000.0);
            tally.count(*status, took, now + took);
            now += Duration::from_secs(1);
        }
        (tally.summary(now), tally.all_succeeded())
    }

    #[test]
    fn a_summary_has_counts_times_and_the_longest_gap() {
        let refused = Some(StatusCode::UNAUTHORIZED);
        let hundred: Vec<_> = (1..=100).map(|ms| (OK, f64::from(ms))).collect();
        for (requests, text, success) in [
            (
                &[(OK, 1.23), (OK, 4.5), (Some(StatusCode::NO_CONTENT), 1.8)] as &[_],
                "3 requests in 3.0 s: 3 ok, 0 failed; ms min 1.2, median 1.8, p99 4.5, max 4.5; longest time without success 1.0 s",
                true,
            ),
            (
                &[
                    (OK, 2.0),
                    (refused, 1.0),
                    (None, 900.0),
                    (refused, 1.0),
                    (OK, 2.0),
                ],
                "5 requests in 5.0 s: 2 ok, 3 failed (no answer: 1, 200: 2, 401: 2); ms min 2.0, median 2.0, p99 2.0, max 2.0; longest time without success 4.0 s",
                false,
            ),
            (
                &hundred,
                "100 requests in 100.0 s: 100 ok, 0 failed; ms min 1.0, median 50.0, p99 99.0, max 100.0; longest time without success 1.0 s",
                true,
            ),
            (
                &[(None, 1.0)],
                "1 request in 1.0 s: 0 ok, 1 failed (no answer: 1); longest time without success 1.0 s",
                false,
            ),
            (
                &[],
                "0 requests in 0.0 s: 0 ok, 0 failed; longest time without success 0.0 s",
                false,
            ),
        ] {
            assert_eq!(summary(requests), (text.to_owned(), success));
        }
    }
}
