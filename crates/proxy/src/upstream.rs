//! The upstream's flags, checked together.

use std::time::Duration;

use clap::{ArgMatches, Args, Command, FromArgMatches, error::ErrorKind};
use forward::outbound::Target;
use http::Uri;
use process::cli;
use spiffe::SpiffeId;

/// Where to forward to, who must be there, and how long it may take.
#[derive(Clone, Debug)]
pub struct UpstreamArgs(Flags);

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Upstream")]
struct Flags {
    /// Where to forward to: https, host and port. Repeatable, and a host may have several addresses: the load is spread over all that can be connected to
    #[arg(long = "upstream", value_name = "URL", default_value = "https://localhost:8080", value_delimiter = ',', value_parser = cli::upstream)]
    upstreams: Vec<Uri>,
    /// SPIFFE ID that the upstream must have; verified on every connection
    #[arg(long, value_name = "ID", default_value = "spiffe://example.org/server", value_parser = cli::workload_id)]
    upstream_id: SpiffeId,
    /// How long connecting to the upstream may take, TLS included
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = cli::duration)]
    connect_timeout: Duration,
    /// How long the upstream may take no part of the request and not begin its answer; what the caller takes is not counted
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = cli::duration)]
    response_timeout: Duration,
    /// The time that a request may wait where all connections to the upstream are full; then it is answered 503
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = cli::duration)]
    queue_timeout: Duration,
}

impl UpstreamArgs {
    /// The upstream that the flags describe.
    #[must_use]
    pub fn target(&self) -> Target {
        let Self(flags) = self;
        Target {
            url: flags.upstreams[0].clone(),
            id: flags.upstream_id.clone(),
            connect_timeout: flags.connect_timeout,
            response_timeout: flags.response_timeout,
            queue_timeout: flags.queue_timeout,
        }
    }

    /// Where else it is.
    #[must_use]
    pub fn more(&self) -> &[Uri] {
        &self.0.upstreams[1..]
    }
}

impl Args for UpstreamArgs {
    fn augment_args(command: Command) -> Command {
        Flags::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flags::augment_args_for_update(command)
    }
}

impl FromArgMatches for UpstreamArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flags = Flags::from_arg_matches(matches)?;
        match twice(&flags.upstreams) {
            Some(url) => Err(clap::Error::raw(
                ErrorKind::ValueValidation,
                format!("--upstream {url} is given twice: name each upstream once"),
            )),
            None => Ok(Self(flags)),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The first URL that an earlier one says too: host names have no case, and 443 is what is meant
/// without a port.
fn twice(urls: &[Uri]) -> Option<&Uri> {
    let endpoint = |url: &Uri| {
        let host = url.host().unwrap_or_default().to_ascii_lowercase();
        (host, url.port_u16().unwrap_or(443))
    };
    let is_known = |(index, url): &(usize, &Uri)| {
        urls[..*index]
            .iter()
            .any(|known| endpoint(known) == endpoint(url))
    };
    let (_, url) = urls.iter().enumerate().find(is_known)?;
    Some(url)
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
        let upstream = parsed.map_err(|error| error.to_string())?.upstream;
        let urls = std::iter::once(upstream.target().url).chain(upstream.more().to_vec());
        Ok(urls.map(|url| url.to_string()).collect())
    }

    #[test]
    fn several_by_flag_or_by_comma() {
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
    fn refuses_what_can_not_be_meant() {
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
