//! Defines the figures, their samples over the rounds, medians and ratios.

use crate::{contender::Contender, row::Row};

/// A quantity that a row measures.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Figure {
    /// Answers per second.
    RequestsPerSecond,
    /// User and system time of all processes of a stack, per request, in µs.
    CpuMicros,
    /// [`Self::CpuMicros`] of proxy and server alone.
    TwoHopsCpuMicros,
    /// [`Self::CpuMicros`] of the same requests that are not gRPC calls.
    PlainCpuMicros,
    /// [`Self::CpuMicros`] while the metrics of all processes are scraped each second.
    ScrapedCpuMicros,
    /// User and system time of all processes of a stack for a scrape of each, in ms.
    ScrapeMillis,
    /// The 99th percentile of the time to an answer, in ms.
    P99Millis,
    /// The number of requests that had no answer or another status than 2xx, in all rounds.
    Failed,
    /// The sum of the peak memory of all processes of a stack, in MiB.
    PeakMib,
    /// The share of TLS connections that resumed a session, in %.
    ResumedPercent,
    /// The speed of request bodies, in MiB/s.
    UploadMibPerSecond,
    /// The speed of response bodies, in MiB/s.
    DownloadMibPerSecond,
    /// The speed of response bodies in MiB/s when the upstream is far from the proxy.
    FarDownloadMibPerSecond,
    /// The speed of response bodies in MiB/s without a proxy, when the upstream is as far from the
    /// caller.
    FarDownloadDirectMibPerSecond,
    /// The speed of request bodies in MiB/s when the caller is far from the proxy.
    FarUploadMibPerSecond,
    /// The speed of request bodies in MiB/s without a proxy, when the caller is as far from the
    /// upstream.
    FarUploadDirectMibPerSecond,
    /// The growth of the proxy's peak memory during the transfer of bodies, in MiB.
    GrowthMib,
    /// The server's memory for an idle WebSocket, in KiB.
    ServerKibPerWebSocket,
    /// The proxy's memory for an idle WebSocket, in KiB.
    ProxyKibPerWebSocket,
    /// The memory of a client that listens for an idle WebSocket, in KiB.
    ClientKibPerWebSocket,
    /// [`Self::P99Millis`] of small requests without other load.
    SmallAloneP99Millis,
    /// [`Self::P99Millis`] of small requests during the transfer of bodies.
    SmallNextToP99Millis,
    /// The time from exec of the server to its first accepted connection, with a running agent, in
    /// ms.
    ServerStartMillis,
    /// The time from exec of the proxy to its first accepted connection, in ms.
    ProxyStartMillis,
    /// [`Self::CpuMicros`] in a case of [`Row::Growth`].
    Growing(Case),
}

/// The quantity that grows, and its size.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Case {
    /// 8 connections.
    Connections8,
    /// 32 connections, with which the next cases are compared.
    Connections32,
    /// 512 connections.
    Connections512,
    /// 32 connections, with server and proxy on one core each.
    OneCore,
    /// 32 connections, and 1,000 keys in the JWT bundle.
    Keys,
    /// 32 connections, and 1,000 patterns of which the caller matches the last.
    Patterns,
    /// 32 connections of our own load generator with one caller, with which the next case is
    /// compared.
    OneCaller,
    /// 32 connections of our own load generator with 10,000 callers in turn, whose tokens were
    /// verified before.
    Callers,
}

/// One measurement of one stack.
pub(crate) type Sample = Vec<(Figure, f64)>;

/// The result of one row.
#[derive(Debug)]
pub(crate) struct RowResult {
    /// The row that was measured.
    pub(crate) row: Row,
    /// The samples of each stack, in the order of the tables.
    pub(crate) stacks: Vec<(Contender, Vec<Sample>)>,
    /// The stacks that have no figures here, and the reasons.
    pub(crate) left_out: Vec<(Contender, String)>,
}

impl Figure {
    /// Returns the name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::RequestsPerSecond => "requests/s",
            Self::CpuMicros => "CPU per request, µs",
            Self::TwoHopsCpuMicros => "proxy and server alone: CPU per request, µs",
            Self::PlainCpuMicros => "the same without gRPC: CPU per request, µs",
            Self::ScrapedCpuMicros => "with a scrape each second: CPU per request, µs",
            Self::ScrapeMillis => "CPU of a scrape of both, ms",
            Self::P99Millis => "p99, ms",
            Self::Failed => "failed, all rounds",
            Self::PeakMib => "peak memory, MiB",
            Self::ResumedPercent => "resumed, %",
            Self::UploadMibPerSecond => "up, MiB/s",
            Self::DownloadMibPerSecond => "down, MiB/s",
            Self::FarDownloadMibPerSecond => "HTTP/1.1, far upstream: down, MiB/s",
            Self::FarDownloadDirectMibPerSecond => "the same without a proxy, MiB/s",
            Self::FarUploadMibPerSecond => "HTTP/2, far caller: up, MiB/s",
            Self::FarUploadDirectMibPerSecond => "the same without a proxy, MiB/s",
            Self::GrowthMib => "memory growth, MiB",
            Self::ServerKibPerWebSocket => "server, KiB for each",
            Self::ProxyKibPerWebSocket => "proxy, KiB for each",
            Self::ClientKibPerWebSocket => "client, KiB for each",
            Self::SmallAloneP99Millis => "small requests alone: p99, ms",
            Self::SmallNextToP99Millis => "small requests next to them: p99, ms",
            Self::ServerStartMillis => "server, ms",
            Self::ProxyStartMillis => "proxy, ms",
            Self::Growing(case) => case.title(),
        }
    }

    /// Returns the name for machines.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::RequestsPerSecond => "requests_per_second",
            Self::CpuMicros => "cpu_us_per_request",
            Self::TwoHopsCpuMicros => "two_hops_cpu_us_per_request",
            Self::PlainCpuMicros => "plain_cpu_us_per_request",
            Self::ScrapedCpuMicros => "scraped_cpu_us_per_request",
            Self::ScrapeMillis => "scrape_ms",
            Self::P99Millis => "p99_ms",
            Self::Failed => "failed",
            Self::PeakMib => "peak_mib",
            Self::ResumedPercent => "resumed_percent",
            Self::UploadMibPerSecond => "upload_mib_per_second",
            Self::DownloadMibPerSecond => "download_mib_per_second",
            Self::FarDownloadMibPerSecond => "far_download_mib_per_second",
            Self::FarDownloadDirectMibPerSecond => "far_download_direct_mib_per_second",
            Self::FarUploadMibPerSecond => "far_upload_mib_per_second",
            Self::FarUploadDirectMibPerSecond => "far_upload_direct_mib_per_second",
            Self::GrowthMib => "memory_growth_mib",
            Self::ServerKibPerWebSocket => "server_kib_per_websocket",
            Self::ProxyKibPerWebSocket => "proxy_kib_per_websocket",
            Self::ClientKibPerWebSocket => "client_kib_per_websocket",
            Self::SmallAloneP99Millis => "small_alone_p99_ms",
            Self::SmallNextToP99Millis => "small_beside_p99_ms",
            Self::ServerStartMillis => "server_start_ms",
            Self::ProxyStartMillis => "proxy_start_ms",
            Self::Growing(case) => case.key(),
        }
    }

    /// Returns whether the rounds are added up, because one failure in any of them matters.
    pub(crate) fn is_total(self) -> bool {
        self == Self::Failed
    }

    /// Formats a value of this figure for people.
    pub(crate) fn written(self, value: f64) -> String {
        if self.is_total() && value < 999.5 {
            return format!("{value:.0}");
        }
        number(value)
    }
}

impl Case {
    /// All cases, in the order of the table.
    pub(crate) const ALL: [Self; 8] = [
        Self::Connections8,
        Self::Connections32,
        Self::Connections512,
        Self::OneCore,
        Self::Keys,
        Self::Patterns,
        Self::OneCaller,
        Self::Callers,
    ];

    /// Returns the name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Connections8 => "8 connections, µs",
            Self::Connections32 => "32 connections, µs",
            Self::Connections512 => "512 connections, µs",
            Self::OneCore => "32, one core each, µs",
            Self::Keys => "32, 1,000 keys, µs",
            Self::Patterns => "32, 1,000 patterns, µs",
            Self::OneCaller => "one caller, other load, µs",
            Self::Callers => "10,000 callers, same load, µs",
        }
    }

    /// Returns the name for machines.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Connections8 => "cpu_us_8_connections",
            Self::Connections32 => "cpu_us_32_connections",
            Self::Connections512 => "cpu_us_512_connections",
            Self::OneCore => "cpu_us_one_core",
            Self::Keys => "cpu_us_1000_keys",
            Self::Patterns => "cpu_us_1000_patterns",
            Self::OneCaller => "cpu_us_one_caller",
            Self::Callers => "cpu_us_10000_callers",
        }
    }
}

impl RowResult {
    /// Returns the figures of the row, in the order in which they were measured.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        for (figure, _) in self
            .stacks
            .iter()
            .flat_map(|(_, samples)| samples.iter().flatten())
        {
            if !figures.contains(figure) {
                figures.push(*figure);
            }
        }
        figures
    }

    /// Returns all values of a figure of a stack, one for each round.
    pub(crate) fn values(&self, contender: Contender, figure: Figure) -> Vec<f64> {
        let of_stack = self.stacks.iter().find(|(stack, _)| *stack == contender);
        let samples = of_stack.map(|(_, samples)| samples.as_slice());
        samples
            .unwrap_or_default()
            .iter()
            .flatten()
            .filter(|(measured, _)| *measured == figure)
            .map(|(_, value)| *value)
            .collect()
    }

    /// Returns the median over the rounds.
    pub(crate) fn median(&self, contender: Contender, figure: Figure) -> Option<f64> {
        median(&self.values(contender, figure))
    }

    /// Returns the value that stands for all rounds: their median or their sum.
    pub(crate) fn summary(&self, contender: Contender, figure: Figure) -> Option<f64> {
        if !figure.is_total() {
            return self.median(contender, figure);
        }
        let values = self.values(contender, figure);
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Returns the median as a multiple of the floor's.
    pub(crate) fn ratio(&self, contender: Contender, figure: Figure) -> Option<f64> {
        if figure.is_total() {
            return None;
        }
        let floor = self.median(Contender::Floor, figure)?;
        let own = self.median(contender, figure)?;
        (floor > 0.0).then(|| own / floor)
    }
}

/// Returns the value in the middle, or the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

/// Returns the value that a share `quantile` (0 to 1) of `values` do not exceed. Sorts `values`.
pub(crate) fn quantile(values: &mut [f64], quantile: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * quantile).ceil() as usize;
    values.get(rank.max(1) - 1).copied()
}

/// Formats a number with three significant digits, or with all digits before the point.
pub(crate) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    let plain = format!("{value:.decimals$}");
    if value < 999.5 {
        return plain;
    }
    let from_right = |index: usize| plain.len() - index;
    plain
        .char_indices()
        .flat_map(|(index, digit)| {
            let comma = index > 0 && from_right(index).is_multiple_of(3);
            comma.then_some(',').into_iter().chain([digit])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let mut values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(quantile(&mut values, 0.99), Some(198.0));
        assert_eq!(quantile(&mut values, 1.0), Some(200.0));
        assert_eq!(quantile(&mut [7.0], 0.5), Some(7.0));
        assert_eq!(quantile(&mut [], 0.5), None);
    }

    #[test]
    fn ratios_are_of_medians_to_the_floor() {
        let samples = |values: &[f64]| {
            let sample = |&value| vec![(Figure::CpuMicros, value)];
            values.iter().map(sample).collect::<Vec<_>>()
        };
        let row = RowResult {
            row: Row::Wrk32,
            stacks: vec![
                (Contender::Project, samples(&[30.0, 20.0, 90.0])),
                (Contender::Floor, samples(&[40.0, 41.0, 39.0])),
            ],
            left_out: Vec::new(),
        };
        assert_eq!(row.figures(), [Figure::CpuMicros]);
        assert_eq!(row.ratio(Contender::Project, Figure::CpuMicros), Some(0.75));
        assert_eq!(row.ratio(Contender::Envoy, Figure::CpuMicros), None);
        assert_eq!(row.ratio(Contender::Project, Figure::P99Millis), None);
    }

    #[test]
    fn failures_of_all_rounds_are_added_up_without_a_ratio() {
        let samples = [0.0, 0.0, 7.0].map(|failed| vec![(Figure::Failed, failed)]);
        let stacks = [Contender::Project, Contender::Floor];
        let row = RowResult {
            row: Row::Post5B,
            stacks: stacks.map(|stack| (stack, samples.to_vec())).to_vec(),
            left_out: Vec::new(),
        };
        let (project, failed) = (Contender::Project, Figure::Failed);
        assert_eq!(row.summary(project, failed), Some(7.0));
        assert_eq!(row.summary(Contender::Envoy, failed), None);
        assert_eq!(row.ratio(project, failed), None);
        let texts = [0.0, 7.0, 1_234.0].map(|value| failed.written(value));
        assert_eq!(texts, ["0", "7", "1,234"]);
    }

    #[test]
    fn numbers_have_three_digits() {
        for (value, text) in [
            (0.0, "0.00"),
            (1.234, "1.23"),
            (9.999, "10.0"),
            (41.26, "41.3"),
            (99.96, "100"),
            (230.4, "230"),
            (999.4, "999"),
            (5_350.0, "5,350"),
            (33_512.7, "33,513"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
