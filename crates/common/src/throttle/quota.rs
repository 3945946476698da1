//! A limit of log lines and other records about single requests, in all and per source.
//!
//! A flood of requests must not become a flood of records, and must not suppress those about other
//! sources.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use http::StatusCode;

use super::recent::{RecentRefusals, RefusedRequest};
use crate::lock::lock;

/// The lines that may be logged in one [`PERIOD`].
const LINES: u32 = 100;

/// The lines about one source that may be logged in one [`PERIOD`].
const LINES_PER_SOURCE: u32 = 20;

const PERIOD: Duration = Duration::from_secs(1);

/// Permits a number of records a second, and a number about one source, and counts the suppressed ones. A
/// source is an IPv4 address or the /64 of an IPv6 address.
#[derive(Debug)]
pub struct Quota(Mutex<Counts>);

/// Quotas by the kind of line, so that lines about faults of callers do not use up the quota of lines
/// about faults of servers.
#[derive(Debug, Default)]
pub struct LogQuotas {
    /// The quota of lines about refused and rejected requests.
    refused: Quota,
    /// The quota of lines about requests that failed without a fault of their callers.
    failed: Quota,
    /// The last requests that have such a line.
    pub recent: RecentRefusals,
}

#[derive(Debug)]
struct Counts {
    since: Instant,
    /// The records of this period.
    records: u32,
    /// The records of this period by source. Only sources with a record have an entry, so that there are
    /// at most as many entries as records.
    sources: HashMap<IpAddr, u32>,
    suppressed: u64,
    limits: Limits,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    records: u32,
    records_per_source: u32,
}

impl LogQuotas {
    /// Permits the log line about a request that was answered with this status, as [`Quota::take`] does, and
    /// keeps the request as one of the last.
    pub fn note(
        &self,
        status: StatusCode,
        source: IpAddr,
        request: impl FnOnce() -> RefusedRequest,
    ) -> Option<Option<u64>> {
        if status.is_server_error() {
            self.note_in(&self.failed, source, request)
        } else {
            self.note_in(&self.refused, source, request)
        }
    }

    /// Notes a request as [`Self::note`] does. Whatever its status, it failed by a fault of its caller.
    pub fn note_fault_of_caller(
        &self,
        source: IpAddr,
        request: impl FnOnce() -> RefusedRequest,
    ) -> Option<Option<u64>> {
        self.note_in(&self.refused, source, request)
    }

    fn note_in(
        &self,
        quota: &Quota,
        source: IpAddr,
        request: impl FnOnce() -> RefusedRequest,
    ) -> Option<Option<u64>> {
        let left_out = quota.take(source)?;
        self.recent.add(request());
        Some(left_out)
    }
}

impl Quota {
    /// Returns a quota that permits this number of records a second, and this number about one source.
    #[must_use]
    pub fn new(records: u32, records_per_source: u32) -> Self {
        let limits = Limits {
            records,
            records_per_source,
        };
        Self(Mutex::new(Counts::new(limits, Instant::now())))
    }

    /// Permits a record about `source` ([`crate::source::network`]), or returns `None` if it must be
    /// suppressed.
    ///
    /// The inner value is the number of records about any source that were suppressed since the last
    /// permitted one, or `None` if there were none.
    pub fn take(&self, source: IpAddr) -> Option<Option<u64>> {
        let mut counts = lock(&self.0);
        counts.take(source, Instant::now())
    }
}

/// Permits 100 log lines a second, 20 of them about one source.
impl Default for Quota {
    fn default() -> Self {
        Self::new(LINES, LINES_PER_SOURCE)
    }
}

impl Counts {
    fn new(limits: Limits, since: Instant) -> Self {
        Self {
            since,
            records: 0,
            sources: HashMap::new(),
            suppressed: 0,
            limits,
        }
    }

    fn take(&mut self, source: IpAddr, now: Instant) -> Option<Option<u64>> {
        if now.duration_since(self.since) >= PERIOD {
            (self.since, self.records) = (now, 0);
            self.sources.clear();
        }
        if !self.count(source) {
            self.suppressed += 1;
            return None;
        }
        let suppressed = std::mem::take(&mut self.suppressed);
        Some((suppressed > 0).then_some(suppressed))
    }

    /// Counts a record if both limits permit it, and returns whether they do.
    fn count(&mut self, source: IpAddr) -> bool {
        if self.records >= self.limits.records {
            return false;
        }
        let of_source = self.sources.entry(source).or_default();
        if *of_source >= self.limits.records_per_source {
            return false;
        }
        *of_source += 1;
        self.records += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    const LIMITS: Limits = Limits {
        records: LINES,
        records_per_source: LINES_PER_SOURCE,
    };

    /// Returns the source with this number.
    fn source(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    fn logged(counts: &mut Counts, source: IpAddr, times: u32, now: Instant) -> usize {
        let taken = (0..times).filter(|_| counts.take(source, now).is_some());
        taken.count()
    }

    #[test]
    fn suppressed_lines_are_counted_and_reported_in_the_next_period() {
        let start = Instant::now();
        let mut counts = Counts::new(LIMITS, start);
        let one = source(1);
        assert_eq!(logged(&mut counts, one, 1000, start), 20);
        assert_eq!(counts.take(one, start + PERIOD), Some(Some(980)));
        assert_eq!(counts.take(one, start + PERIOD), Some(None));
    }

    #[test]
    fn one_source_does_not_suppress_the_lines_about_another() {
        let start = Instant::now();
        let mut counts = Counts::new(LIMITS, start);
        logged(&mut counts, source(1), 200_000, start);
        assert_eq!(counts.take(source(2), start), Some(Some(199_980)));
        assert_eq!(counts.take(source(1), start), None);
        assert_eq!(counts.take(source(2), start), Some(Some(1)));
    }

    #[test]
    fn many_sources_share_the_total_limit_and_a_bounded_table() {
        let start = Instant::now();
        let mut counts = Counts::new(LIMITS, start);
        for now in [start, start + PERIOD, start + 3 * PERIOD] {
            let sources = (0..100_000).map(source);
            let logged = sources.filter(|one| counts.take(*one, now).is_some());
            assert_eq!(logged.count(), 100);
            assert_eq!(counts.sources.len(), 100);
        }
    }

    #[test]
    fn lines_about_faults_of_callers_and_of_servers_have_quotas_of_their_own() {
        let quotas = LogQuotas::default();
        let refused = [StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN];
        let failed = [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE];
        for statuses in [refused, failed] {
            let statuses = statuses.iter().cycle().take(50);
            let request = |status| RefusedRequest::new(status, Reason::Internal, "a", "b");
            let noted = statuses.filter(|one| {
                let noted = quotas.note(**one, source(1), || request(**one));
                noted.is_some()
            });
            assert_eq!(noted.count(), 20);
        }
        assert_eq!(quotas.recent.list().len(), 40, "these have a line");
    }

    #[test]
    fn five_sources_use_the_whole_quota() {
        let start = Instant::now();
        let mut counts = Counts::new(LIMITS, start);
        let each = (0..6).map(|one| logged(&mut counts, source(one), 50, start));
        assert_eq!(each.collect::<Vec<_>>(), [20, 20, 20, 20, 20, 0]);
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_source() {
        let quota = Quota::default();
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
