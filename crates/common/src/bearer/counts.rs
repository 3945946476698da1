//! The counts of an authenticator.

use super::{
    caller::{Caller, Credential},
    refusal::Refusal,
};
use crate::{
    count::{Counter, Counters, Gauge, Histogram},
    reason::Reason,
};

crate::labels! {
    /// The reason why a request was let through.
    pub enum Accepted {
        /// Its token is verified, and the caller is allowed.
        Token = "token",
        /// Its connection's certificate is verified, and the caller is allowed.
        Certificate = "certificate",
        /// A rule makes it public.
        Public = "public",
    }
}

/// The bounds of the histogram of verifications, in microseconds.
const VERIFICATION: &[u64] = &[25, 50, 75, 100, 150, 250, 500, 1000, 2500, 10_000];

/// The counts of an [`Authenticator`](super::Authenticator).
#[derive(Debug)]
pub struct Counts {
    /// The requests that were let through.
    pub accepted: Counters<Accepted>,
    /// The requests that were refused, or would have been ([`Enforcement::Observe`](super::Enforcement)).
    pub refused: Counters<Reason>,
    /// The time of each verification of a token that was not in the cache.
    pub verification: Histogram,
    /// The tokens that were found in the cache.
    pub cache_hits: Counter,
    /// The tokens that were not found in the cache.
    pub cache_misses: Counter,
    /// The tokens that were evicted from the cache.
    pub cache_evictions: Counter,
    /// The verifications that wait to be admitted.
    pub waiting: Gauge,
}

impl Accepted {
    fn by(credential: Credential) -> Self {
        match credential {
            Credential::Token { .. } => Self::Token,
            Credential::Certificate => Self::Certificate,
        }
    }
}

impl Counts {
    /// Counts the outcome of a request.
    pub(super) fn note(&self, outcome: &Result<Option<Caller>, Refusal>) {
        match outcome {
            Ok(None) => self.accepted.add(Accepted::Public, 1),
            Ok(Some(caller)) => self.accepted.add(Accepted::by(caller.credential), 1),
            Err(refusal) => self.refused.add(refusal.reason(), 1),
        }
    }
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            accepted: Counters::default(),
            refused: Counters::default(),
            verification: Histogram::new(VERIFICATION),
            cache_hits: Counter::default(),
            cache_misses: Counter::default(),
            cache_evictions: Counter::default(),
            waiting: Gauge::default(),
        }
    }
}
