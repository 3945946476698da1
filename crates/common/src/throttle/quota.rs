//! Limits how many refused requests get a log line of their own, in all and per source address: a
//! flood must not become a flood of lines, and must not silence the lines about others.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::lock::lock;

/// Lines that may be logged in one [`PERIOD`].
const LINES: u32 = 100;

/// Lines about one source address (IPv6: one /64) that may be logged in one [`PERIOD`].
const LINES_PER_SOURCE: u32 = 20;

const PERIOD: Duration = Duration::from_secs(1);

/// Lets through 100 lines a second, 20 of them about one source address, and counts the others.
#[derive(Debug)]
pub struct LogQuota(Mutex<Counts>);

/// Limits log lines by kind, so that lines about requests that callers got wrong do not use up those
/// about failures.
#[derive(Debug, Default)]
pub struct LogQuotas {
    /// For requests that were refused or rejected.
    pub refused: LogQuota,
    /// For requests that could not be served, by no fault of their callers.
    pub failed: LogQuota,
}

#[derive(Debug)]
struct Counts {
    since: Instant,
    /// Lines of this period.
    lines: u32,
    /// Lines of this period by source; only sources with a line have an entry, so that there are at
    /// most [`LINES`] entries.
    sources: HashMap<IpAddr, u32>,
    left_out: u64,
}

impl LogQuota {
    /// Begins with nothing logged.
    #[must_use]
    pub fn new() -> Self {
        Self(Mutex::new(Counts::new(Instant::now())))
    }

    /// Returns whether a line about `source` ([`crate::source::network`]) may be logged now. If so, it also returns how many lines
    /// about any source were left out since the last one, if any were.
    pub fn take(&self, source: IpAddr) -> Option<Option<u64>> {
        let mut counts = lock(&self.0);
        counts.take(source, Instant::now())
    }
}

impl Default for LogQuota {
    fn default() -> Self {
        Self::new()
    }
}

impl Counts {
    fn new(since: Instant) -> Self {
        Self {
            since,
            lines: 0,
            sources: HashMap::new(),
            left_out: 0,
        }
    }

    fn take(&mut self, source: IpAddr, now: Instant) -> Option<Option<u64>> {
        if now.duration_since(self.since) >= PERIOD {
            (self.since, self.lines) = (now, 0);
            self.sources.clear();
        }
        if !self.count(source) {
            self.left_out += 1;
            return None;
        }
        let left_out = std::mem::take(&mut self.left_out);
        Some((left_out > 0).then_some(left_out))
    }

    /// Counts a line, if both limits allow one.
    fn count(&mut self, source: IpAddr) -> bool {
        if self.lines >= LINES {
            return false;
        }
        let of_source = self.sources.entry(source).or_default();
        if *of_source >= LINES_PER_SOURCE {
            return false;
        }
        *of_source += 1;
        self.lines += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The source with this number.
    fn source(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    fn logged(counts: &mut Counts, source: IpAddr, times: u32, now: Instant) -> usize {
        let taken = (0..times).filter(|_| counts.take(source, now).is_some());
        taken.count()
    }

    #[test]
    fn lines_over_the_limit_are_counted_and_told_in_the_next_period() {
        let start = Instant::now();
        let mut counts = Counts::new(start);
        let one = source(1);
        assert_eq!(logged(&mut counts, one, 1000, start), 20);
        assert_eq!(counts.take(one, start + PERIOD), Some(Some(980)));
        assert_eq!(counts.take(one, start + PERIOD), Some(None));
    }

    #[test]
    fn one_source_does_not_silence_another() {
        let start = Instant::now();
        let mut counts = Counts::new(start);
        logged(&mut counts, source(1), 200_000, start);
        assert_eq!(counts.take(source(2), start), Some(Some(199_980)));
        assert_eq!(counts.take(source(1), start), None);
        assert_eq!(counts.take(source(2), start), Some(Some(1)));
    }

    #[test]
    fn many_sources_share_the_limit_in_all_and_a_bounded_table() {
        let start = Instant::now();
        let mut counts = Counts::new(start);
        for now in [start, start + PERIOD, start + 3 * PERIOD] {
            let sources = (0..100_000).map(source);
            let logged = sources.filter(|one| counts.take(*one, now).is_some());
            assert_eq!(logged.count(), 100);
            assert_eq!(counts.sources.len(), 100);
        }
    }

    #[test]
    fn five_sources_take_all_lines_and_no_more() {
        let start = Instant::now();
        let mut counts = Counts::new(start);
        let each = (0..6).map(|one| logged(&mut counts, source(one), 50, start));
        assert_eq!(each.collect::<Vec<_>>(), [20, 20, 20, 20, 20, 0]);
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_source() {
        let quota = LogQuota::new();
        let taken = |text: &str| {
            quota
                .take(crate::source::network(text.parse().unwrap()))
                .is_some()
        };
        for number in 0..LINES_PER_SOURCE {
            assert!(taken(&format!("2001:db8::{number:x}")));
        }
        assert!(!taken("2001:db8::ffff:1"));
        assert!(taken("2001:db8:0:1::1"), "another network");
        assert!(taken("192.0.2.1"));
    }
}
