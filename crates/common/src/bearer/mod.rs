//! A request's head → the caller that it proves to be, by the JWT-SVID in its bearer token.
//!
//! The steps, each in a file of its own: the header (`header`), the token (`token`, by the `spiffe`
//! crate's JWT-SVID validation, and `time`, what that leaves to us), the caller's SPIFFE ID against
//! the policy (`allow`); what is answered and logged when one of them refuses (`refusal`), and how
//! much of it is logged (`quota`). `keys` warns of keys that no token can be checked with.
//!
//! The entry takes the whole head, not a token: other credentials travel in headers of their own.

mod allow;
mod header;
mod keys;
mod quota;
mod refusal;
mod time;
mod token;

use std::time::Duration;

use http::request::Parts;
use spiffe::{BundleSource, JwtBundle, JwtSource, SpiffeId};

pub use self::{
    allow::{Allow, Pattern, PatternError},
    keys::warn_of_unusable_keys,
    quota::LogQuota,
    refusal::{Malformed, Refusal, Shown, TokenFault},
};

/// Checks the bearer token of each request against bundles: the live ones of a [`JwtSource`], or a
/// fixed set of them.
#[derive(Clone, Debug)]
pub struct Authenticator<B = JwtSource> {
    bundles: B,
    policy: Policy,
}

/// What a token must be, and whose.
#[derive(Clone, Debug)]
pub struct Policy {
    /// A token must be for one of these (JWT-SVID §3.2).
    pub audiences: Vec<String>,
    /// Who may call.
    pub allow: Allow,
    /// How far this machine's clock and the issuer's may be apart; zero is the library's strictness.
    pub clock_skew: Duration,
    /// The longest that a token may live, if that is limited.
    pub max_token_lifetime: Option<Duration>,
}

/// The verified caller of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its SPIFFE ID: the token's subject (JWT-SVID §3.1).
    pub id: SpiffeId,
}

impl Policy {
    /// Tokens for one of `audiences`, of callers that `allow` allows; no clock skew, any lifetime.
    #[must_use]
    pub fn new(audiences: Vec<String>, allow: Allow) -> Self {
        Self {
            audiences,
            allow,
            clock_skew: Duration::ZERO,
            max_token_lifetime: None,
        }
    }
}

impl<B: BundleSource<Item = JwtBundle>> Authenticator<B>
where
    B::Error: std::error::Error + Send + Sync + 'static,
{
    /// Checks tokens with the keys in `bundles`, by `policy`.
    ///
    /// # Panics
    /// Without an audience, or with an empty one (JWT-SVID §3.2): the first refuses every token, the
    /// second accepts those that are for nobody.
    #[must_use]
    pub fn new(bundles: B, policy: Policy) -> Self {
        let audiences = &policy.audiences;
        assert!(
            !audiences.is_empty() && !audiences.iter().any(String::is_empty),
            "an authenticator needs audiences, and none of them empty"
        );
        Self { bundles, policy }
    }

    /// Authenticates and authorizes the caller.
    ///
    /// # Errors
    /// The [`Refusal`] says which step refused, what to answer and what to log.
    pub fn authenticate(&self, head: &Parts) -> Result<Caller, Refusal> {
        let token = header::bearer_token(&head.headers)?;
        let id = token::verify(token, &self.bundles, &self.policy)?;
        if !self.policy.allow.allows(&id) {
            return Err(Refusal::NotAllowed(id));
        }
        Ok(Caller { id })
    }
}
