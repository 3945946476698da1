//! The faults of a token.

use std::{fmt, time::Duration};

use super::rules::RuleName;
use crate::{reason::Reason, sanitize::Sanitized};

/// The fault of a token. Its text is go-spiffe's where go-spiffe makes the same distinction.
#[derive(Debug, thiserror::Error)]
pub enum TokenFault {
    /// The token is not a JWT in compact serialization, or a field of it has the wrong type.
    #[error("unable to parse JWT token: {0}")]
    Parse(Sanitized<String>),
    /// The `typ` is neither JWT nor JOSE (JWT-SVID §2.3).
    #[error("token header type not equal to either JWT or JOSE")]
    Type,
    /// JWT-SVID §2.1 does not list the `alg`.
    #[error("token signature algorithm is not supported")]
    Algorithm,
    /// The token has no `kid`, so that no key can be chosen.
    #[error("token header missing key id")]
    KeyIdMissing,
    /// The `sub` is not one SPIFFE ID in its canonical form (JWT-SVID §3.1).
    #[error("token has an invalid subject claim")]
    Subject,
    /// The subject's trust domain has no bundle.
    #[error("no bundle found for trust domain {0:?}")]
    NoBundle(Sanitized<String>),
    /// The bundle of the subject's trust domain has no JWT authority with this `kid`.
    #[error("no JWT authority {key_id:?} found for trust domain {trust_domain:?}")]
    NoAuthority {
        /// The token's `kid`.
        key_id: Sanitized<String>,
        /// The trust domain of the token's subject.
        trust_domain: Sanitized<String>,
    },
    /// The JWT authority has the wrong type, strength or purpose for this token.
    #[error("JWT authority cannot verify the token: {0}")]
    Authority(Sanitized<String>),
    /// The JWT authority did not make the signature.
    #[error("token signature is invalid")]
    Signature,
    /// The token's `exp` has passed.
    #[error("token has expired")]
    Expired,
    /// The token's `nbf` has not come.
    #[error("token is not valid yet")]
    NotYetValid,
    /// The token lives for longer than the policy accepts.
    #[error("token lifetime is longer than {}", humantime::format_duration(*.0))]
    Lifetime(Duration),
    /// The token is for another audience (JWT-SVID §3.2).
    #[error("expected audience in {expected:?} (audience={found:?}){}", by(rule.as_ref()))]
    Audience {
        /// The audiences that this server accepts.
        expected: Vec<String>,
        /// The audiences of the token, at most four of them.
        found: Vec<Sanitized<String>>,
        /// The rule that names the audiences, unless they are those of the service.
        rule: Option<RuleName>,
    },
}

/// Returns the end of a text about audiences, which names the rule that asks for them.
fn by(rule: Option<&RuleName>) -> String {
    rule.map(|rule| format!(" by {rule}")).unwrap_or_default()
}

/// The most audiences of a token that are logged.
const MAX_AUDIENCES: usize = 4;

impl TokenFault {
    /// Returns the reason, whose code is for the log and the metrics.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Parse(_) => Reason::Unparsable,
            Self::Type => Reason::TokenType,
            Self::Algorithm => Reason::Algorithm,
            Self::KeyIdMissing => Reason::NoKeyId,
            Self::Subject => Reason::Subject,
            Self::NoBundle(_) => Reason::UnknownTrustDomain,
            Self::NoAuthority { .. } => Reason::UnknownKey,
            Self::Authority(_) => Reason::UnusableKey,
            Self::Signature => Reason::Signature,
            Self::Expired => Reason::Expired,
            Self::NotYetValid => Reason::NotYetValid,
            Self::Lifetime(_) => Reason::Lifetime,
            Self::Audience { .. } => Reason::Audience,
        }
    }

    /// Returns the fault of a token that is not a well-formed JWT-SVID.
    pub(super) fn parse(reason: impl fmt::Display) -> Self {
        Self::Parse(Sanitized(reason.to_string()))
    }

    /// Returns the fault of a token for the audiences `found`, where `rule` or the service accepts only
    /// those in `expected`.
    pub(super) fn audience<'t>(
        found: impl Iterator<Item = &'t str>,
        expected: &[String],
        rule: Option<RuleName>,
    ) -> Self {
        let mut found = found.map(str::to_owned);
        let mut shown: Vec<_> = found.by_ref().take(MAX_AUDIENCES).collect();
        shown.extend(found.next().map(|_| "…".to_owned()));
        Self::Audience {
            expected: expected.to_vec(),
            found: shown.into_iter().map(Sanitized).collect(),
            rule,
        }
    }
}
