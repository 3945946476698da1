//! The flags that describe the upstream.

use std::time::Duration;

use clap::Args;
use common::{
    tls::{self, ClientTls},
    workload::X509Source,
};
use forward::outbound::{Upstream, UpstreamUrl};
use process::{
    cli::{self, UpstreamArgs},
    runtime::OpenFiles,
};
use spiffe::SpiffeId;

/// The upstream's URLs, its identity, and how long it may take.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Upstream")]
pub struct VerifiedUpstreamArgs {
    /// URL to forward to: https, host and port. Repeatable, and a host may have several addresses; requests are
    /// spread over all that can be connected to
    #[arg(
        long = "upstream",
        value_name = "URL",
        default_value = "https://localhost:8080",
        value_delimiter = ',',
        value_parser = cli::upstream
    )]
    upstreams: Vec<UpstreamUrl>,
    /// SPIFFE ID that the upstream must have; verified on every connection
    #[arg(long, value_name = "ID", default_value = "spiffe://example.org/server", value_parser = cli::workload_id)]
    pub(crate) upstream_id: SpiffeId,
    /// Present this proxy's X.509-SVID to the upstream, for a server with --peers
    #[arg(long)]
    client_certificate: bool,
    /// The deadlines and the bound.
    #[command(flatten)]
    connections: UpstreamArgs,
}

impl VerifiedUpstreamArgs {
    /// Returns the upstream that the flags describe. The answer to a gRPC call may be silent for
    /// `call_timeout`.
    ///
    /// # Errors
    /// Fails when a URL is given twice.
    pub fn upstream(&self, call_timeout: Duration) -> Result<Upstream, String> {
        self.connections.upstream(&self.upstreams, call_timeout)
    }

    /// Returns the configuration that verifies the upstream.
    ///
    /// # Errors
    /// Fails when the X.509-SVID to present can't be used.
    pub(crate) fn tls(&self, x509: &X509Source) -> anyhow::Result<ClientTls> {
        let tls = tls::client(x509, &self.upstream_id);
        Ok(if self.client_certificate {
            tls.presenting()?
        } else {
            tls
        })
    }

    /// Returns the URLs of the upstream.
    #[must_use]
    pub fn urls(&self) -> &[UpstreamUrl] {
        &self.upstreams
    }

    /// Returns the open files of upstream connections on this number of cores.
    #[must_use]
    pub fn open_files(&self, cores: usize) -> OpenFiles {
        self.connections.open_files(self.upstreams.len(), cores)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        upstream: VerifiedUpstreamArgs,
    }

    fn urls(args: &[&str]) -> Result<Vec<String>, String> {
        let parsed = Alone::try_parse_from(["proxy"].iter().chain(args));
        let args = parsed.map_err(|error| error.to_string())?.upstream;
        let urls = args.upstream(Duration::from_secs(3600))?.urls;
        Ok(urls.iter().map(UpstreamUrl::to_string).collect())
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
