//! Verification of a request's caller by the JWT-SVID in its bearer token.
//!
//! [`Authenticator`] verifies the caller of one request head. [`JwtSvidLayer`] does that for every
//! request of a tower service. Each step has a file of its own:
//!
//! - `header` reads the token from the `Authorization` header
//! - `cache` remembers tokens that were verified before
//! - `queue` lets a core do other work between verifications
//! - `jwt` verifies the token as a JWT-SVID
//! - `allow` matches the caller's SPIFFE ID against the policy
//! - `refusal` maps the step that refused a request to an answer and a log line

mod allow;
mod authenticator;
mod cache;
mod header;
mod jwt;
mod layer;
mod policy;
mod queue;
mod refusal;

pub use self::{
    allow::{Allow, Pattern, PatternError, Rule},
    authenticator::{Authenticator, Caller, Credential},
    jwt::{JwtBundle, JwtBundleFault, JwtBundleSet},
    layer::{EmptyAnswer, JwtSvidLayer, JwtSvidService, RefusalAnswer},
    policy::Policy,
    queue::{MAX_WAITING, VerificationQueue},
    refusal::{Malformed, Refusal, TokenFault},
};
