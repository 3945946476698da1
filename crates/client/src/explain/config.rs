//! The flags of `--explain-token`, which are those of the server that would get the token.

use std::{
    io::{self, Read},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use common::bearer::{Pattern, Policy, Rules};
use process::{
    cli,
    policy::{self, PolicyFile},
};
use spiffe::TrustDomain;

/// The token, and the rules of the server.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Explaining a token")]
pub(crate) struct ExplainArgs {
    /// Print what a token says, each rule that a server would apply to it and the one that refuses it, and
    /// exit. Without a value, or with -, the token is read from standard input. Each user of this machine can
    /// see an argument (ps). The signature is not printed. -X and --url are the request. The status is 0 if
    /// the token is accepted, and 1 if it is refused
    #[arg(
        long,
        value_name = "TOKEN",
        num_args = 0..=1,
        default_missing_value = STDIN,
        conflicts_with_all = ["listen", "token_file", "server_name", "headers", "data", "include", "repeat", "every", "print", "doctor"]
    )]
    explain_token: Option<String>,
    /// File with the trust bundle of the token's trust domain, a JWK Set or a SPIFFE bundle, instead of the
    /// bundles of the Workload API
    #[arg(long, value_name = "FILE", requires = "explain_token")]
    pub(super) bundle: Option<PathBuf>,
    /// Audience that the server accepts; repeatable [default: AUDIENCE, or else --server-id]
    #[arg(
        id = "accepted_audience",
        long = "audience",
        value_name = "AUDIENCE",
        env = "CLIENT_ACCEPTED_AUDIENCE",
        hide_env = true,
        value_parser = cli::audience,
        requires = "explain_token"
    )]
    audiences: Vec<String>,
    /// Caller that the server allows; repeatable [default: every workload of the trust domain of --server-id]
    #[arg(
        long,
        value_name = "PATTERN",
        value_delimiter = ',',
        requires = "explain_token"
    )]
    allow: Vec<Pattern>,
    /// Policy file of the server, in place of --allow
    #[arg(
        long,
        value_name = "FILE",
        requires = "explain_token",
        conflicts_with = "allow"
    )]
    policy: Option<PathBuf>,
    /// The server's --clock-skew
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "0s",
        value_parser = cli::clock_skew,
        requires = "explain_token"
    )]
    clock_skew: Duration,
    /// The server's --max-token-lifetime [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = cli::duration, requires = "explain_token")]
    max_token_lifetime: Option<Duration>,
}

/// The value that stands for standard input.
const STDIN: &str = "-";

/// The longest token that is read. A server refuses one of more than 8 KiB.
const MAX: u64 = 64 * 1024;

impl ExplainArgs {
    /// Returns whether a token is to be explained.
    pub(crate) fn is_given(&self) -> bool {
        self.explain_token.is_some()
    }

    /// Reads the token of the flag, or of standard input. Returns it without the scheme if it was copied from a header.
    ///
    /// # Errors
    /// Fails when standard input can't be read.
    pub(super) fn read_token(&self) -> anyhow::Result<String> {
        let text = match self.explain_token.as_deref() {
            Some(STDIN) | None => {
                let mut text = String::new();
                let stdin = io::stdin().lock().take(MAX);
                let read = io::BufReader::new(stdin).read_to_string(&mut text);
                read.context("cannot read the token from standard input")?;
                text
            }
            Some(text) => text.to_owned(),
        };
        let text = text.trim();
        Ok(match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("Bearer") => {
                token.trim().to_owned()
            }
            _ => text.to_owned(),
        })
    }

    /// Returns the policy of the server. `audiences` are those of the other flags, and `own` is the server's
    /// trust domain.
    ///
    /// # Errors
    /// Fails with one line when the policy file can't be read or has a mistake.
    pub(super) fn policy(
        &self,
        audiences: Vec<String>,
        own: &TrustDomain,
    ) -> Result<Policy, String> {
        let audiences = if self.audiences.is_empty() {
            audiences
        } else {
            self.audiences.clone()
        };
        Ok(Policy {
            clock_skew: self.clock_skew,
            max_token_lifetime: self.max_token_lifetime,
            token_cache: 0,
            ..Policy::new(audiences, self.rules(own)?)
        })
    }

    fn rules(&self, own: &TrustDomain) -> Result<Rules, String> {
        let Some(path) = &self.policy else {
            return Ok(policy::of_flags(&self.allow, &[], own));
        };
        let opened = PolicyFile::open(path);
        let (_, rules) = opened.map_err(|refused| format!("--policy {}", refused.text()))?;
        Ok(rules)
    }
}
