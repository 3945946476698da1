//! The rules that a token and its caller must meet.

use std::time::Duration;

use super::rules::Rules;

/// The default of [`Policy::token_cache`]. This many tokens take about 3 MB.
pub const DEFAULT_TOKEN_CACHE: usize = 10_000;

/// The rules that a token and its caller must meet.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The audiences of this service; a token must be for one of them (JWT-SVID §3.2), unless the rule
    /// that decides has its own.
    pub audiences: Vec<String>,
    /// The requests and the callers that are allowed.
    pub rules: Rules,
    /// The largest accepted difference between this machine's clock and the issuer's. Zero accepts
    /// none.
    pub clock_skew: Duration,
    /// The longest accepted lifetime of a token; `None` accepts any.
    pub max_token_lifetime: Option<Duration>,
    /// The number of verified tokens that are remembered. Each takes about 300 bytes, or 2.5 KiB with
    /// the longest SPIFFE ID. Zero verifies the token of each request.
    pub token_cache: usize,
}

impl Policy {
    /// Returns a policy that accepts tokens for one of `audiences`, by `rules`. An
    /// [`Allow`](super::Allow) stands for one rule, by which its callers may send every request. The
    /// policy accepts no clock skew and any lifetime, and remembers [`DEFAULT_TOKEN_CACHE`] tokens.
    #[must_use]
    pub fn new(audiences: Vec<String>, rules: impl Into<Rules>) -> Self {
        Self {
            audiences,
            rules: rules.into(),
            clock_skew: Duration::ZERO,
            max_token_lifetime: None,
            token_cache: DEFAULT_TOKEN_CACHE,
        }
    }
}
