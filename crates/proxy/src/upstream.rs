//! The flags that describe the upstream.

use std::{collections::HashSet, time::Duration};

use clap::Args;
use forward::outbound::{ExclusiveLimit, MAX_KEPT, Upstream};
use http::Uri;
use process::{cli, runtime::OpenFiles};
use spiffe::SpiffeId;

/// The upstream's URLs, its identity, and how long it may take.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Upstream")]
pub struct UpstreamArgs {
    /// URL to forward to: https, host and port. Repeatable, and a host may have several addresses; requests are spread over all that can be connected to
    #[arg(long = "upstream", value_name = "URL", default_value = "https://localhost:8080", value_delimiter = ',', value_parser = cli::upstream)]
    upstreams: Vec<Uri>,
    /// SPIFFE ID that the upstream must have; verified on every connection
    #[arg(long, value_name = "ID", default_value = "spiffe://example.org/server", value_parser = cli::workload_id)]
    upstream_id: SpiffeId,
    /// Longest time to connect to the upstream, TLS included
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = cli::duration)]
    connect_timeout: Duration,
    /// Longest time in which the upstream may take no part of the request and not begin its answer; time that the caller takes is not counted. A gRPC call has --stream-idle-timeout instead, and long polls need a longer time
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = cli::duration)]
    response_timeout: Duration,
    /// Longest time that a request may wait while all connections to the upstream are full; then it is answered 503
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = cli::duration)]
    queue_timeout: Duration,
    /// Upstream connections at once that carry one request each, as for a long body. For a further one, the oldest request of the address with the most is ended, or it waits at most --queue-timeout
    #[arg(long, value_name = "N", default_value = "4000", value_parser = cli::positive)]
    max_upstream_connections: usize,
}

impl UpstreamArgs {
    /// Returns the upstream that the flags describe. The answer to a gRPC call may be silent for
    /// `call_timeout`.
    ///
    /// # Errors
    /// Fails when a URL is given twice.
    pub fn upstream(&self, call_timeout: Duration) -> Result<Upstream, String> {
        if let Some(url) = repeated(&self.upstreams) {
            return Err(format!(
                "--upstream {url} is given twice: name each upstream once"
            ));
        }
        Ok(Upstream {
            urls: self.upstreams.clone(),
            id: self.upstream_id.clone(),
            connect_timeout: self.connect_timeout,
            response_timeout: self.response_timeout,
            call_timeout,
            queue_timeout: self.queue_timeout,
            exclusive: ExclusiveLimit::new(self.max_upstream_connections),
        })
    }

    /// Returns the open files of upstream connections on this number of cores.
    #[must_use]
    pub fn open_files(&self, cores: usize) -> OpenFiles {
        let others = cores * self.upstreams.len() * MAX_KEPT;
        OpenFiles::of("--max-upstream-connections", self.max_upstream_connections)
            .with_others(others)
    }
}

/// Returns the first URL that names the same endpoint as an earlier one. Host names have no case, and
/// a URL without a port means 443.
fn repeated(urls: &[Uri]) -> Option<&Uri> {
    let endpoint = |url: &Uri| {
        let host = url.host().unwrap_or_default().to_ascii_lowercase();
        (host, url.port_u16().unwrap_or(443))
    };
    let mut known = HashSet::new();
    urls.iter().find(|url| !known.insert(endpoint(url)))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        upstream: UpstreamArgs,
    }

    fn urls(args: &[&str]) -> Result<Vec<String>, String> {
        let parsed = Alone::try_parse_from(["proxy"].iter().chain(args));
        let args = parsed.map_err(|error| error.to_string())?.upstream;
        let urls = args.upstream(Duration::from_secs(3600))?.urls;
        Ok(urls.iter().map(Uri::to_string).collect())
    }

    #[test]
    fn upstreams_are_given_by_several_flags_or_commas() {
        let (a, b) = ("https://a:1/", "https://b:1/");
        for (args, expected) in [
            (&[] as &[&str], &["https://localhost:8080/"] as &[&str]),
            (&["--upstream", a], &[a]),
            (&["--upstream", a, "--upstream", b], &[a, b]),
            (&["--upstream", "https://a:1,https://b:1"], &[a, b]),
            (
                &["--upstream", "https://a:1,https://a:2"],
                &[a, "https://a:2/"],
            ),
        ] {
            assert_eq!(urls(args).unwrap(), expected);
        }
    }

    #[test]
    fn an_upstream_given_twice_or_not_a_url_is_refused() {
        for (value, text) in [
            ("https://a:1,https://a:1", "https://a:1/ is given twice"),
            (
                "https://a:1,https://b:1,https://A:1/",
                "https://A:1/ is given twice",
            ),
            ("https://a,https://a:443", "https://a:443/ is given twice"),
            ("https://a:1,", "not a URL"),
            (",", "not a URL"),
            (
                "https://a:1,http://b:1",
                "http would send the token in clear",
            ),
            ("https://a:1,b:1", "the scheme must be https"),
            ("https://a:1,https://b:1/path", "an upstream has no path"),
            ("https://a:1 https://b:1", "not a URL"),
        ] {
            let error = urls(&["--upstream", value]).unwrap_err();
            assert!(error.contains(text), "{value}: {error}");
        }
    }
}
