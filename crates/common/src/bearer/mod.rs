//! A request's head → the caller that it proves to be, by the JWT-SVID in its bearer token.
//!
//! The steps, each in a file of its own: the header (`header`), the token (`token`, by the `spiffe`
//! crate's JWT-SVID validation, and `time`, what that leaves to us) unless it was verified before
//! (`cache`), within bounds (`queue`); the caller's SPIFFE ID against the policy (`allow`); what is answered and logged when
//! one of them refuses (`refusal`). `keys` warns of keys that no token can be checked with.
//!
//! The entry takes the whole head, not a token: other credentials travel in headers of their own.

mod allow;
mod cache;
mod header;
mod keys;
mod layer;
mod queue;
mod refusal;
mod time;
mod token;

use std::{
    cell::OnceCell,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::request::Parts;
use spiffe::{BundleSource, JwtBundle, JwtSource, SpiffeId};
use tracing::debug;

use self::cache::{Cache, TokenDigest, Used, Verified};

pub use self::{
    allow::{Allow, Pattern, PatternError},
    keys::warn_of_unusable_keys,
    layer::{EmptyAnswer, JwtSvidLayer, JwtSvidService, RefusalAnswer},
    queue::{MAX_WAITING, VerificationQueue},
    refusal::{Malformed, Refusal, TokenFault},
};

/// Checks the bearer token of each request against bundles: the live ones of a [`JwtSource`], or a
/// fixed set of them.
#[derive(Debug)]
pub struct Authenticator<B = JwtSource> {
    bundles: B,
    policy: Policy,
    cache: Option<Cache>,
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
    /// How many verified tokens to remember, some 300 bytes each (2.5 KiB for the longest SPIFFE
    /// ID); zero verifies the token of each request.
    pub token_cache: usize,
}

/// The verified caller of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its SPIFFE ID: the token's subject (JWT-SVID §3.1).
    pub id: Arc<SpiffeId>,
}

impl Policy {
    /// Tokens for one of `audiences`, of callers that `allow` allows; no clock skew, any lifetime,
    /// no cache.
    #[must_use]
    pub fn new(audiences: Vec<String>, allow: Allow) -> Self {
        Self {
            audiences,
            allow,
            clock_skew: Duration::ZERO,
            max_token_lifetime: None,
            token_cache: 0,
        }
    }
}

/// A request's token, and what it is known by.
struct BearerToken<'a> {
    text: &'a str,
    digest: OnceCell<TokenDigest>,
}

impl<'a> BearerToken<'a> {
    fn in_head(head: &'a Parts) -> Result<Self, Refusal> {
        Ok(Self {
            text: header::bearer_token(&head.headers)?,
            digest: OnceCell::new(),
        })
    }

    /// Made when it is first asked for: without a cache nobody does.
    fn digest(&self) -> &TokenDigest {
        self.digest.get_or_init(|| TokenDigest::of(self.text))
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
        let cache = (policy.token_cache > 0).then(|| Cache::new(policy.token_cache));
        Self {
            bundles,
            policy,
            cache,
        }
    }

    /// Authenticates and authorizes the caller.
    ///
    /// # Errors
    /// The [`Refusal`] says which step refused, what to answer and what to log.
    pub fn authenticate(&self, head: &Parts) -> Result<Caller, Refusal> {
        let token = BearerToken::in_head(head)?;
        let id = match self.known(&token) {
            Some(id) => id,
            None => self.verify_and_remember(&token)?,
        };
        self.authorize(id)
    }

    /// As [`Self::authenticate`], on a core that has more to do: a token that is not known yet waits
    /// for its turn to be checked. Callers take turns by their `source`.
    ///
    /// # Errors
    /// As [`Self::authenticate`], and when too many wait already.
    pub async fn authenticate_queued(
        &self,
        head: &Parts,
        source: IpAddr,
        queue: &VerificationQueue,
    ) -> Result<Caller, Refusal> {
        let token = BearerToken::in_head(head)?;
        let id = match self.known(&token) {
            Some(id) => id,
            None => {
                let _permit = queue.permit(source).await?;
                // It may have come more than once.
                match self.known(&token) {
                    Some(id) => id,
                    None => self.verify_and_remember(&token)?,
                }
            }
        };
        self.authorize(id)
    }

    fn authorize(&self, id: Arc<SpiffeId>) -> Result<Caller, Refusal> {
        if !self.policy.allow.allows(&id) {
            return Err(Refusal::NotAllowed(SpiffeId::clone(&id)));
        }
        Ok(Caller { id })
    }

    fn known(&self, token: &BearerToken<'_>) -> Option<Arc<SpiffeId>> {
        let verified = self.cache.as_ref()?.get(token.digest())?;
        let holds = verified.holds(&self.bundles, SystemTime::now());
        holds.then(|| Arc::clone(&verified.id))
    }

    fn verify_and_remember(&self, token: &BearerToken<'_>) -> Result<Arc<SpiffeId>, Refusal> {
        let verified = Arc::new(self.verify(token.text)?);
        if let Some(cache) = &self.cache {
            cache.insert(*token.digest(), Arc::clone(&verified));
        }
        Ok(Arc::clone(&verified.id))
    }

    fn verify(&self, token: &str) -> Result<Verified, Refusal> {
        let now = SystemTime::now();
        let used = Used::new(&self.bundles);
        let svid = token::verify(token, &used, &self.policy)?;
        debug!(caller = %svid.spiffe_id(), "token verified");
        let expiry = cache::time(svid.claims().exp(), self.policy.clock_skew);
        Ok(Verified {
            id: Arc::new(svid.spiffe_id().clone()),
            bundle: used
                .last()
                .ok_or_else(|| Refusal::NoTrust("no bundle was used".into()))?,
            since: now,
            until: expiry.unwrap_or(now),
        })
    }
}
