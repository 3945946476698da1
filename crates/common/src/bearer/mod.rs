//! Verification of a request's caller by the JWT-SVID in its bearer token.
//!
//! [`Authenticator`] verifies the caller of one request head. [`JwtSvidLayer`] does that for every
//! request of a tower service. Each step has a file of its own:
//!
//! - `header` reads the token from the `Authorization` header
//! - `cache` remembers tokens that were verified before
//! - `queue` lets a core do other work between verifications
//! - `jwt` verifies the token as a JWT-SVID
//! - `rules` finds the rule that decides about the request; `access` has those that are in force
//! - `allow` matches the caller's SPIFFE ID against the patterns of the rule
//! - `caller` has the result, and reads the token's claims when a service asks
//! - `counts` counts the outcomes
//! - `explain` applies each rule to a token, for a person who reads the verdicts
//! - `claimed` has the caller that a token claims, for operators
//! - `refusal` maps the step that refused a request to an answer and a log line

mod access;
mod allow;
mod authenticator;
mod cache;
mod caller;
mod claimed;
mod counts;
mod explain;
mod fault;
mod header;
mod jwt;
mod layer;
mod policy;
mod queue;
mod refusal;
mod rules;

pub use self::{
    access::RulesHandle,
    allow::{Allow, Pattern, PatternError, RefusedBy},
    authenticator::Authenticator,
    caller::{Caller, Credential},
    claimed::claimed_id,
    counts::{Accepted, Counts},
    explain::{ExplainedRule, Outcome},
    fault::TokenFault,
    jwt::{Claims, ClaimsFault},
    layer::{EmptyAnswer, Enforcement, JwtSvidLayer, JwtSvidService, RefusalAnswer},
    policy::{DEFAULT_TOKEN_CACHE, Policy},
    queue::MAX_WAITING,
    refusal::{Malformed, Refusal},
    rules::{Access, AccessRule, RuleName, Rules, Verdict},
};
pub use crate::jwt_bundle::{JwtBundle, JwtBundleFault, JwtBundleSet};
