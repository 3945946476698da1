//! The flags about upstream connections.

use std::time::Duration;

use clap::Args;
use forward::outbound::{ExclusiveLimit, MAX_KEPT, Timeouts, Upstream, UpstreamUrl};

use super::parse::{duration, positive};
use crate::runtime::OpenFiles;

/// The deadlines and the bound of upstream connections.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Upstream")]
pub struct UpstreamArgs {
    /// Longest time to connect to the upstream, TLS included
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    connect_timeout: Duration,
    /// Longest time in which the upstream may take no part of the request and not begin its answer; time that
    /// the caller takes is not counted. A gRPC call has --stream-idle-timeout instead, and long polls need a
    /// longer time
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    response_timeout: Duration,
    /// Longest time that a request may wait while all connections to the upstream are full; then it is answered
    /// 503
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    queue_timeout: Duration,
    /// Upstream connections at once that carry one request each, as for a long body. For a further one, the
    /// oldest request of the address with the most is ended, or it waits at most --queue-timeout
    #[arg(long, value_name = "N", default_value = "4000", value_parser = positive)]
    max_upstream_connections: usize,
}

impl UpstreamArgs {
    /// Returns the upstream at `urls`. The answer to a gRPC call may be silent for `call_timeout`.
    ///
    /// # Errors
    /// Fails when two URLs name the same upstream.
    pub fn upstream(
        &self,
        urls: &[UpstreamUrl],
        call_timeout: Duration,
    ) -> Result<Upstream, String> {
        let is_repeated = |(index, url): &(usize, &UpstreamUrl)| {
            urls[..*index]
                .iter()
                .any(|known| known.is_same_upstream(url))
        };
        if let Some((_, url)) = urls.iter().enumerate().find(is_repeated) {
            return Err(format!(
                "--upstream {url} is given twice: name each upstream once"
            ));
        }
        let timeouts = Timeouts {
            connect: self.connect_timeout,
            response: self.response_timeout,
            call: call_timeout,
            queue: self.queue_timeout,
        };
        let exclusive = ExclusiveLimit::new(self.max_upstream_connections);
        Ok(Upstream::new(urls.to_vec(), timeouts, exclusive))
    }

    /// Returns the open files of connections to this number of upstreams on this number of cores.
    #[must_use]
    pub fn open_files(&self, upstreams: usize, cores: usize) -> OpenFiles {
        let others = cores * upstreams * MAX_KEPT;
        OpenFiles::of("--max-upstream-connections", self.max_upstream_connections)
            .with_others(others)
    }
}
