//! Flags and environment of the server, typed and checked.

use std::{net::SocketAddr, time::Duration};

use clap::{Parser, ValueEnum};
use common::{
    bearer::{Authenticator, DEFAULT_TOKEN_CACHE, Pattern, Policy, Rules},
    tls::Callers,
    workload::JwtSource,
};
use process::{
    bundles,
    cli::{self, LogArgs, ServeArgs, WorkloadApiArgs},
    doctor::DoctorArgs,
    notify::ServiceManager,
};
use spiffe::SpiffeId;

use crate::{
    ext_authz::config::ExtAuthzArgs,
    policy::{LivePolicy, PolicyArgs, follow_reloads},
    upstream::ApplicationArgs,
};

/// The name of the program in metrics and spans.
pub(crate) const ROLE: &str = "server";

/// Flags and environment.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "server",
    version,
    max_term_width = 100,
    about = "HTTPS server that authenticates its callers by SPIFFE JWT-SVID\n\n\
        It presents its X.509-SVID, verifies the JWT-SVID in each request's bearer token with the \
        current JWT bundles, and forwards the request to the application of --upstream with the caller's \
        SPIFFE ID. If no --upstream is given, it answers / with \"Success!!!\". With --ext-authz, it \
        answers a gateway's checks instead of requests.",
    after_help = "\
The flags under Upstream apply with --upstream.

Each flag can also be set by SERVER_ and its name: SERVER_LISTEN=127.0.0.1:8080, SERVER_ALLOW=ID,ID

Examples:
  server
  server --listen 127.0.0.1:8080 --audience https://api.example.org
  server --allow spiffe://example.org/client \\
         --allow 'spiffe://example.org/ns/batch/*'
  server --peers spiffe://example.org/proxy
  server --upstream http://127.0.0.1:3000 --public /healthz
  server --upstream h2c://127.0.0.1:50051
  server --ext-authz 127.0.0.1:9001
  server --policy policy.toml --upstream http://127.0.0.1:3000
  server --policy policy.toml \\
         --explain 'GET /orders spiffe://example.org/client'
  server --doctor"
)]
pub struct Config {
    /// IP address and port to listen on. The default accepts IPv4 too
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8080", value_parser = cli::listen_address)]
    pub listen: SocketAddr,
    /// Audience that a token must have; repeatable [default: this server's SPIFFE ID]
    #[arg(long, value_name = "AUDIENCE", value_parser = cli::audience, help_heading = "Authentication")]
    pub audience: Vec<String>,
    /// Use of callers' certificates. With ignore, the server requests none. With accept, a caller may
    /// present an X.509-SVID, which stands for it where a request has no token and has passed no proxy
    #[arg(
        long,
        value_name = "MODE",
        default_value = "ignore",
        hide_possible_values = true,
        help_heading = "Authentication"
    )]
    pub client_certificates: ClientCertificates,
    /// Peer that may connect, such as the proxy: a SPIFFE ID or a pattern; repeatable. All others are
    /// refused in the TLS handshake. The certificate is not a caller's: each request needs a token
    /// [default: any peer, with or without a certificate]
    #[arg(
        long = "peers",
        value_name = "PATTERN",
        value_delimiter = ',',
        conflicts_with = "client_certificates",
        help_heading = "Authentication"
    )]
    pub peers: Vec<Pattern>,
    /// Tolerated difference of clocks for a token's exp and nbf, in whole seconds up to 5m. Each
    /// second lets a stolen token live one second longer
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "0s",
        value_parser = cli::clock_skew,
        help_heading = "Authentication"
    )]
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
        default_value_t = DEFAULT_TOKEN_CACHE,
        value_parser = cli::whole_number::<usize>,
        help_heading = "Authentication"
    )]
    pub token_cache: usize,
    /// The callers, and the requests that they may send.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// The application.
    #[command(flatten)]
    pub application: ApplicationArgs,
    /// The address for gateways.
    #[command(flatten)]
    pub ext_authz: ExtAuthzArgs,
    /// The diagnosis.
    #[command(flatten)]
    pub doctor: DoctorArgs,
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

/// The use that a server makes of its callers' certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClientCertificates {
    /// It requests none.
    Ignore,
    /// It accepts X.509-SVIDs, and callers without one.
    Accept,
}

impl Config {
    /// Returns the callers whose certificates are accepted, or `None` if none are requested.
    #[must_use]
    pub fn callers(&self) -> Option<Callers> {
        match (self.client_certificates, self.peers.is_empty()) {
            (_, false) => Some(Callers::Only(self.peers.iter().cloned().collect())),
            (ClientCertificates::Accept, true) => Some(Callers::Any),
            (ClientCertificates::Ignore, true) => None,
        }
    }

    /// Returns whether a caller's certificate stands for it where a request has no token.
    #[must_use]
    pub fn takes_certificates(&self) -> bool {
        self.client_certificates == ClientCertificates::Accept
    }

    /// Returns the policy that the flags describe, with these rules. `own` is the SPIFFE ID of the server.
    #[must_use]
    pub fn policy(&self, rules: Rules, own: &SpiffeId) -> Policy {
        let audiences = if self.audience.is_empty() {
            vec![own.to_string()]
        } else {
            self.audience.clone()
        };
        Policy {
            clock_skew: self.clock_skew,
            max_token_lifetime: self.max_token_lifetime,
            token_cache: self.token_cache,
            ..Policy::new(audiences, rules)
        }
    }

    /// Follows the policy, and warns of callers that can't be verified. `manager` is told of a policy that changes.
    /// Returns the authenticator of the server whose SPIFFE ID is `own`.
    pub(crate) fn follow_policy(
        &self,
        policy: LivePolicy,
        bundles: JwtSource,
        own: &SpiffeId,
        manager: &ServiceManager,
    ) -> Authenticator {
        match policy {
            LivePolicy::File(file) => {
                file.follow(|rules| self.policy(rules, own), bundles, manager)
            }
            LivePolicy::Flags(hangups) => {
                if let Some(hangups) = hangups {
                    follow_reloads(hangups, manager);
                }
                let allowed = self.policy.allowed_domains();
                bundles::warn_of_missing(&bundles, "JWT", "--allow", allowed);
                let rules = self.policy.rules(own.trust_domain());
                Authenticator::new(bundles, self.policy(rules, own))
            }
        }
    }
}

impl AsRef<LogArgs> for Config {
    fn as_ref(&self) -> &LogArgs {
        &self.log
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_of_callers_are_requested_only_by_a_flag() {
        let config = |args: &[&str]| Config::try_parse_from(["server"].iter().chain(args));
        let only = |callers| matches!(callers, Some(Callers::Only(_)));
        assert!(config(&[]).unwrap().callers().is_none());
        let accept = config(&["--client-certificates", "accept"]).unwrap();
        assert!(matches!(accept.callers(), Some(Callers::Any)) && accept.takes_certificates());
        let peers = config(&["--peers", "spiffe://example.org/proxy"]).unwrap();
        assert!(only(peers.callers()) && !peers.takes_certificates());
        for args in [
            &["--client-certificates", "accept", "--peers", "spiffe://a/b"][..],
            &["--client-certificates", "require"],
            &["--peers", "spiffe://example.org"],
        ] {
            assert_eq!(config(args).unwrap_err().exit_code(), 2, "{args:?}");
        }
    }
}
