//! Flags and environment of the server, typed and checked.

use std::{net::SocketAddr, time::Duration};

use clap::Parser;
use common::{
    bearer::{Allow, Authenticator, Pattern, Policy},
    path::PathPattern,
    workload::JwtSource,
};
use process::cli::{self, LogArgs, ServeArgs, WorkloadApiArgs};
use spiffe::SpiffeId;

use crate::{ext_authz::config::ExtAuthzArgs, upstream::ApplicationArgs};

/// Flags and environment.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "server",
    version,
    max_term_width = 100,
    about = "HTTPS server that authenticates its callers by SPIFFE JWT-SVID\n\n\
        It presents its X.509-SVID, verifies the JWT-SVID in each request's bearer token with the \
        current JWT bundles, and forwards the request to an application with the caller's SPIFFE ID. \
        Without one, it answers / with Success!!! With --ext-authz, it answers a gateway's questions \
        instead.",
    after_help = "\
Each flag can also be set by SERVER_ and its name: SERVER_LISTEN=127.0.0.1:8080, SERVER_ALLOW=ID,ID

Examples:
  server
  server --listen 127.0.0.1:8080 --audience https://api.example.org
  server --allow spiffe://example.org/client --allow 'spiffe://example.org/ns/batch/*'
  server --upstream http://127.0.0.1:3000 --public /healthz
  server --upstream h2c://127.0.0.1:50051
  server --ext-authz 127.0.0.1:9001"
)]
pub struct Config {
    /// IP address and port to listen on. The default accepts IPv4 too
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8080", value_parser = cli::listen_address)]
    pub listen: SocketAddr,
    /// Audience that a token must have; repeatable [default: this server's SPIFFE ID]
    #[arg(long, value_name = "AUDIENCE", value_parser = cli::audience, help_heading = "Authentication")]
    pub audience: Vec<String>,
    /// Caller to allow: a SPIFFE ID, or a pattern such as spiffe://example.org/ns/*; repeatable
    /// [default: every workload of this server's trust domain]
    #[arg(
        long,
        value_name = "PATTERN",
        value_delimiter = ',',
        help_heading = "Authentication"
    )]
    pub allow: Vec<Pattern>,
    /// Tolerated difference of clocks for a token's exp and nbf, in whole seconds up to 5m. Each
    /// second lets a stolen token live one second longer
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = clock_skew, help_heading = "Authentication")]
    pub clock_skew: Duration,
    /// Longest lifetime of a token, exp - iat, or exp - now without iat. Tokens with a longer one
    /// are refused [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = cli::duration, help_heading = "Authentication")]
    pub max_token_lifetime: Option<Duration>,
    /// Verified tokens to cache, about 300 bytes each. A token leaves the cache when it expires or
    /// its trust bundle changes. 0 turns the cache off
    #[arg(
        long,
        value_name = "N",
        default_value = "10000",
        value_parser = cli::whole_number::<usize>,
        help_heading = "Authentication"
    )]
    pub token_cache: usize,
    /// Path that needs no token, for example for health checks: an exact path, or a pattern such as
    /// '/static/**'; repeatable. The application gets no caller's ID with it
    #[arg(
        long,
        value_name = "PATH",
        value_delimiter = ',',
        requires = "upstreams",
        help_heading = "Authentication"
    )]
    pub public: Vec<PathPattern>,
    /// The application.
    #[command(flatten)]
    pub application: ApplicationArgs,
    /// The address for gateways.
    #[command(flatten)]
    pub ext_authz: ExtAuthzArgs,
    /// The Workload API.
    #[command(flatten)]
    pub identity: WorkloadApiArgs,
    /// The bounds of the listener, and its drain.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// The log.
    #[command(flatten)]
    pub log: LogArgs,
}

impl Config {
    /// Returns the authenticator that the flags describe. `own` is the SPIFFE ID of the server.
    #[must_use]
    pub fn authenticator(&self, bundles: JwtSource, own: &SpiffeId) -> Authenticator {
        let audiences = if self.audience.is_empty() {
            vec![own.to_string()]
        } else {
            self.audience.clone()
        };
        let allow = if self.allow.is_empty() {
            Allow::members_of(own.trust_domain().clone())
        } else {
            self.allow.iter().cloned().collect()
        };
        let policy = Policy {
            clock_skew: self.clock_skew,
            max_token_lifetime: self.max_token_lifetime,
            token_cache: self.token_cache,
            ..Policy::new(audiences, allow)
        };
        Authenticator::new(bundles, policy)
    }
}

impl AsRef<LogArgs> for Config {
    fn as_ref(&self) -> &LogArgs {
        &self.log
    }
}

/// The largest clock skew. RFC 7519 §4.1.4 says "usually no more than a few minutes".
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(300);

/// Parses a clock skew in whole seconds from 0 to 5 minutes.
fn clock_skew(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(skew) if skew <= MAX_CLOCK_SKEW && skew.subsec_nanos() == 0 => Ok(skew),
        _ => Err("expected whole seconds from 0s to 5m, for example 30s".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_skew_that_is_long_or_not_of_whole_seconds_is_refused() {
        for (text, seconds) in [("0s", 0), ("30s", 30), ("5m", 300)] {
            assert_eq!(clock_skew(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "30", "-1s", "301s", "1h", "500ms"] {
            assert!(clock_skew(text).unwrap_err().contains("30s"), "{text}");
        }
    }
}
