//! Each rule for a request's token, one by one, for a person who reads the verdicts.
//!
//! [`Authenticator::authenticate`] stops at the first rule that refuses. Here the others are applied too,
//! by the same functions and in the same order.

use std::{sync::Arc, time::SystemTime};

use http::request::Parts;
use spiffe::BundleSource;

use super::{
    access::MatchedRule,
    authenticator::{Authenticator, Check, authorized},
    caller::{Caller, Credential},
    refusal::Refusal,
};
use crate::jwt_bundle::JwtBundle;

/// A rule, and its verdict on a token.
#[derive(Debug)]
pub struct ExplainedRule {
    /// The name of the rule.
    pub name: &'static str,
    /// The verdict.
    pub outcome: Outcome,
}

/// The verdict of one rule.
#[derive(Debug)]
pub enum Outcome {
    /// The token meets the rule. The text says how.
    Met(String),
    /// The rule refuses the token.
    Refused(Refusal),
    /// The rule depends on another one that refused the token. The text names the other one.
    NotTried(&'static str),
}

impl ExplainedRule {
    pub(super) fn new(name: &'static str, outcome: Outcome) -> Self {
        Self { name, outcome }
    }

    pub(super) fn met(name: &'static str, text: impl Into<String>) -> Self {
        Self::new(name, Outcome::Met(text.into()))
    }

    /// Returns the rule of a check that returns nothing. `text` is for a token that meets it.
    pub(super) fn of(
        name: &'static str,
        checked: Result<(), impl Into<Refusal>>,
        text: impl Into<String>,
    ) -> Self {
        match checked {
            Ok(()) => Self::met(name, text),
            Err(refusal) => Self::new(name, Outcome::Refused(refusal.into())),
        }
    }
}

impl<B: BundleSource<Item = JwtBundle>> Authenticator<B>
where
    B::Error: std::error::Error + Send + Sync + 'static,
{
    /// Applies each rule to the token of the request with this head, at the time `now`, in the order of
    /// [`Self::authenticate`]. The first one that refuses is the reason of the refusal.
    #[must_use]
    pub fn explain(&self, head: &Parts, now: SystemTime) -> Vec<ExplainedRule> {
        let in_force = self.rules.snapshot();
        let check = match Check::new(&in_force, head) {
            Ok(Some(check)) => check,
            Ok(None) => {
                let text = "a rule makes the request public: no token is read";
                return vec![ExplainedRule::met("policy", text)];
            }
            Err(refusal) => {
                return vec![ExplainedRule::new("header", Outcome::Refused(refusal))];
            }
        };
        let mut rules = vec![ExplainedRule::met("header", "one bearer token")];
        let audience = |found: &[String]| check.require_audience(found.iter().map(String::as_str));
        let token = check.token.text;
        let (of_token, id) = self.validator.explain(token, audience, self.times, now);
        rules.extend(of_token);
        let policy = match id {
            None => Outcome::NotTried("subject"),
            Some(id) => {
                let caller = Caller::new(Arc::new(id), Credential::Certificate);
                match authorized(check.matched, caller) {
                    Ok(_) => Outcome::Met(allowing(check.matched)),
                    Err(refusal) => Outcome::Refused(refusal),
                }
            }
        };
        rules.push(ExplainedRule::new("policy", policy));
        rules
    }
}

/// Describes the rule that allows a caller.
fn allowing(matched: MatchedRule<'_>) -> String {
    match matched {
        MatchedRule::Callers(rule, _) => match &rule.name {
            Some(name) => format!("{name} allows the caller"),
            None => "the caller is allowed".to_owned(),
        },
        MatchedRule::Public | MatchedRule::None => String::new(),
    }
}
