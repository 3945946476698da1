//! The policy that the flags describe: which requests are let through.
//!
//! - [`process::policy`] reads a policy file; `follow` applies its rules, and again when it changes
//! - `explain` answers `--explain`

mod explain;
mod follow;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, CommandFactory, ValueEnum};
use common::{
    bearer::{Enforcement, Pattern, Rules},
    path::PathPattern,
};
use process::{
    cli,
    policy::{self, PolicyFile, Refused},
};
use spiffe::{SpiffeId, TrustDomain};

pub use self::explain::Question;
pub(crate) use self::follow::{LivePolicy, follow_reloads};

/// The callers, and the requests that they may send.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Policy")]
pub struct PolicyArgs {
    /// Caller to allow: a SPIFFE ID, or a pattern such as spiffe://example.org/ns/*; repeatable
    /// [default: every workload of this server's trust domain]
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    allow: Vec<Pattern>,
    /// Path that needs no token, for example for health checks: an exact path, or a pattern such as
    /// '/static/**'; repeatable. The application gets no caller's ID with it
    #[arg(long, value_name = "PATH", value_delimiter = ',', requires = "guarded")]
    public: Vec<PathPattern>,
    /// File with the rules (TOML): which callers may send which requests. It takes the place of --allow
    /// and --public, and is read again when it changes and on SIGHUP
    #[arg(long, value_name = "FILE", conflicts_with_all = ["allow", "public"])]
    policy: Option<PathBuf>,
    /// Effect of the policy: on refuses requests, and observe lets all pass and logs those that would
    /// have been refused
    #[arg(
        long,
        value_name = "MODE",
        default_value = "on",
        hide_possible_values = true
    )]
    enforce: Enforce,
    /// Check a policy file, print its number of rules or its first mistake, and exit. The status is 1
    /// after a mistake
    #[arg(long, value_name = "FILE")]
    check_policy: Option<PathBuf>,
    /// Print what the policy decides about a request, such as 'GET /orders
    /// spiffe://example.org/client', and exit. The status is 1 if it is refused
    #[arg(long, value_name = "REQUEST")]
    explain: Option<Question>,
}

/// The values of `--enforce`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Enforce {
    On,
    Observe,
}

impl PolicyArgs {
    /// Reads the policy file. Returns `None` if the flags describe the policy.
    ///
    /// # Errors
    /// Fails with one line when the file can't be read or has a mistake.
    pub(crate) fn open(&self) -> Result<Option<(PolicyFile, Rules)>, String> {
        let opened = self.policy.as_deref().map(PolicyFile::open).transpose();
        opened.map_err(|refused| format!("--policy {}", refused.text()))
    }

    /// Returns the path of the policy file, if there is one.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.policy.as_deref()
    }

    /// Returns whether the flags ask about a policy, in place of a server.
    pub(crate) fn is_question(&self) -> bool {
        self.check_policy.is_some() || self.explain.is_some()
    }

    /// Returns the effect of a refusal.
    pub(crate) fn enforcement(&self) -> Enforcement {
        match self.enforce {
            Enforce::On => Enforcement::On,
            Enforce::Observe => Enforcement::Observe,
        }
    }

    /// Returns the rules of `--allow` and `--public`, for a server of this trust domain.
    pub(crate) fn rules(&self, own: &TrustDomain) -> Rules {
        policy::of_flags(&self.allow, &self.public, own)
    }

    /// Returns the words for the policy of the flags.
    pub(crate) fn described(&self) -> String {
        let callers: Vec<_> = self.allow.iter().map(ToString::to_string).collect();
        let callers = if callers.is_empty() {
            "every workload of the own trust domain".to_owned()
        } else {
            callers.join(", ")
        };
        match self.public.len() {
            0 => format!("allowed: {callers}"),
            paths => format!("allowed: {callers}; public paths: {paths}"),
        }
    }

    /// Returns the trust domains that `--allow` names.
    pub(crate) fn allowed_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.allow.iter().map(Pattern::trust_domain)
    }

    /// Prints what `--check-policy` and `--explain` ask for. Returns the exit status, or `None` if neither is
    /// given. `own` is the SPIFFE ID that the flags give the server, and `C` has all its flags.
    ///
    /// # Errors
    /// Fails when standard output can't be written to.
    pub(crate) fn print_answer<C: CommandFactory>(
        &self,
        own: Option<&SpiffeId>,
        audiences: &[String],
    ) -> anyhow::Result<Option<ExitCode>> {
        let answered = match (&self.check_policy, &self.explain) {
            (Some(path), _) => match PolicyFile::open(path) {
                Ok((_, rules)) => Ok((true, counted(&rules))),
                Err(Refused::Mistake(text)) => Ok((false, text)),
                Err(Refused::Unreadable(text)) => Err(format!("--check-policy {text}")),
            },
            (None, Some(question)) => self.explained(question, own, audiences),
            (None, None) => return Ok(None),
        };
        match answered {
            Ok((is_good, text)) => {
                writeln!(io::stdout(), "{text}")?;
                Ok(Some(if is_good {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::FAILURE
                }))
            }
            Err(error) => cli::usage_error::<C>(&error).map(Some),
        }
    }

    fn explained(
        &self,
        question: &Question,
        own: Option<&SpiffeId>,
        audiences: &[String],
    ) -> Result<(bool, String), String> {
        let rules = match (self.open()?, own) {
            (Some((_, rules)), _) => rules,
            (None, Some(own)) => self.rules(own.trust_domain()),
            (None, None) => match self.allow.first() {
                // The server's own trust domain plays no part with --allow.
                Some(pattern) => self.rules(pattern.trust_domain()),
                None => {
                    return Err("--explain: by default the callers of the server's own trust domain are allowed, and only the Workload API knows it; add --spiffe-id with the server's SPIFFE ID, --allow or --policy".to_owned());
                }
            },
        };
        let answer = question.answer(&rules, audiences);
        Ok((answer.is_allowed, answer.text))
    }
}

fn counted(rules: &Rules) -> String {
    match rules.len() {
        1 => "1 rule".to_owned(),
        count => format!("{count} rules"),
    }
}
