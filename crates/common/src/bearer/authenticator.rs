//! The check of one request head, from its header to the verified caller.

use std::{
    cell::OnceCell,
    net::IpAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use http::{HeaderValue, request::Parts};
use spiffe::{BundleSource, SpiffeId};
use tracing::debug;

use super::{
    access::{Holder, InForce, MatchedRule, RulesHandle},
    allow::RefusedBy,
    cache::{self, Cache, TokenDigest, Verified},
    caller::{Caller, Credential},
    counts::Counts,
    fault::TokenFault,
    header,
    jwt::{Times, Validator, VerifiedToken},
    policy::Policy,
    queue::VerificationQueue,
    refusal::Refusal,
};
use crate::{jwt_bundle::JwtBundle, workload::JwtSource};

/// Verifies the bearer token of requests with JWT bundles: the live ones of a [`JwtSource`], or a
/// fixed set.
#[derive(Debug)]
pub struct Authenticator<B = JwtSource> {
    pub(super) validator: Validator<B>,
    pub(super) rules: Holder,
    pub(super) times: Times,
    cache: Option<Cache>,
    counts: Arc<Counts>,
}

/// The token of a request, and its digest once it is computed.
pub(super) struct BearerToken<'a> {
    field: &'a HeaderValue,
    pub(super) text: &'a str,
    digest: OnceCell<TokenDigest>,
}

/// The check of one request: its token, and the rule that matches it.
pub(super) struct Check<'a> {
    pub(super) token: BearerToken<'a>,
    in_force: &'a InForce,
    pub(super) matched: MatchedRule<'a>,
}

impl<'a> BearerToken<'a> {
    fn in_head(head: &'a Parts) -> Result<Self, Refusal> {
        let (field, text) = header::bearer_token(&head.headers)?;
        Ok(Self {
            field,
            text,
            digest: OnceCell::new(),
        })
    }

    /// Returns the digest, which is computed at the first call because only the cache needs it.
    fn digest(&self) -> &TokenDigest {
        self.digest.get_or_init(|| TokenDigest::of(self.text))
    }
}

impl<B: BundleSource<Item = JwtBundle>> Authenticator<B>
where
    B::Error: std::error::Error + Send + Sync + 'static,
{
    /// Returns an authenticator that verifies tokens with the keys in `bundles`, by `policy`.
    ///
    /// # Panics
    /// Panics when the policy has no audience, or an empty one (JWT-SVID §3.2). A policy without an
    /// audience would refuse every token. An empty one would accept tokens that are for nobody.
    #[must_use]
    pub fn new(bundles: B, policy: Policy) -> Self {
        let (in_force, times, size) = Self::parts(policy);
        Self::with(bundles, Holder::Fixed(in_force), times, size)
    }

    /// Returns an authenticator as [`Self::new`] does, and a handle that replaces its rules.
    ///
    /// # Panics
    /// Panics as [`Self::new`] does.
    #[must_use]
    pub fn replaceable(bundles: B, policy: Policy) -> (Self, RulesHandle) {
        let (in_force, times, size) = Self::parts(policy);
        let (rules, handle) = Holder::replaceable(in_force);
        (Self::with(bundles, rules, times, size), handle)
    }

    fn parts(policy: Policy) -> (InForce, Times, usize) {
        let audiences = policy.audiences;
        assert!(!audiences.is_empty(), "an authenticator needs audiences");
        let in_force = InForce::new(policy.rules, audiences.into());
        assert!(
            !in_force.accepted().iter().any(String::is_empty),
            "no audience is empty"
        );
        let times = Times {
            clock_skew: policy.clock_skew,
            max_lifetime: policy.max_token_lifetime,
        };
        (in_force, times, policy.token_cache)
    }

    fn with(bundles: B, rules: Holder, times: Times, cached_tokens: usize) -> Self {
        let counts = Arc::default();
        Self {
            validator: Validator::new(bundles),
            rules,
            times,
            cache: (cached_tokens > 0).then(|| cache::cache(cached_tokens, &counts)),
            counts,
        }
    }

    /// Returns the counts of all requests.
    #[must_use]
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Authenticates and authorizes the caller of the request with this head. Returns `None` if a rule
    /// makes the request public, so that its caller is unknown.
    ///
    /// It takes the whole head because the rules are about its method and path.
    ///
    /// # Errors
    /// Fails when a step refuses the request. The [`Refusal`] names the step, its answer and its log
    /// text.
    pub fn authenticate(&self, head: &Parts) -> Result<Option<Caller>, Refusal> {
        let decided = self.decide(head);
        self.counts.note(&decided);
        decided
    }

    fn decide(&self, head: &Parts) -> Result<Option<Caller>, Refusal> {
        let in_force = self.rules.snapshot();
        let Some(check) = Check::new(&in_force, head)? else {
            return Ok(None);
        };
        let verified = self.known_or_verified(&check)?;
        check.authorize(&verified).map(Some)
    }

    /// Decides as [`Self::authenticate`] does, on a core that also has other work. A token that is not in
    /// the cache waits in `queue`, which serves callers source by source. `source` is the caller's network
    /// ([`crate::source::network`]). Leaves the count to its caller.
    ///
    /// # Errors
    /// Fails as [`Self::authenticate`] does, and when too many verifications wait already.
    pub(super) async fn decide_queued(
        &self,
        head: &Parts,
        source: IpAddr,
        queue: &VerificationQueue,
    ) -> Result<Option<Caller>, Refusal> {
        let in_force = self.rules.snapshot();
        let Some(check) = Check::new(&in_force, head)? else {
            return Ok(None);
        };
        let verified = match self.known(&check)? {
            Some(verified) => verified,
            None => {
                let waiting = self.counts.waiting.count();
                let _permit = queue.permit(source).await?;
                drop(waiting);
                // Another request with the same token may have been verified meanwhile.
                self.known_or_verified(&check)?
            }
        };
        check.authorize(&verified).map(Some)
    }

    /// Authorizes a request without a token, whose connection was verified by the X.509-SVID of `id`.
    /// Audiences of a rule do not matter, because the connection leads to this server.
    ///
    /// # Errors
    /// Fails when no rule allows the caller.
    pub(super) fn authorize_certificate(
        &self,
        head: &Parts,
        id: Arc<SpiffeId>,
    ) -> Result<Option<Caller>, Refusal> {
        let in_force = self.rules.snapshot();
        match in_force.matched(head) {
            MatchedRule::Public => Ok(None),
            matched => authorized(matched, Caller::new(id, Credential::Certificate)).map(Some),
        }
    }

    fn known_or_verified(&self, check: &Check<'_>) -> Result<Arc<Verified>, Refusal> {
        match self.known(check)? {
            Some(verified) => Ok(verified),
            None => self.verify_and_remember(check),
        }
    }

    /// Returns the cached verification of a token, or `None` if the token has to be verified.
    ///
    /// # Errors
    /// Fails when the token is known and has no audience of the rule.
    fn known(&self, check: &Check<'_>) -> Result<Option<Arc<Verified>>, Refusal> {
        let (accepted, bundles) = (check.in_force.accepted(), self.validator.bundles());
        let cache = self.cache.as_ref();
        let found = cache.and_then(|cache| cache.get(check.token.digest()));
        let known = found.filter(|one| one.holds(accepted, bundles, SystemTime::now()));
        if let Some(verified) = &known {
            self.counts.cache_hits.add(1);
            check.require_audience(verified.audiences())?;
        }
        Ok(known)
    }

    fn verify_and_remember(&self, check: &Check<'_>) -> Result<Arc<Verified>, Refusal> {
        if self.cache.is_some() {
            self.counts.cache_misses.add(1);
        }
        let verified = Arc::new(self.verify(check)?);
        if let Some(cache) = &self.cache {
            cache.insert(*check.token.digest(), Arc::clone(&verified));
        }
        Ok(verified)
    }

    fn verify(&self, check: &Check<'_>) -> Result<Verified, Refusal> {
        let now = SystemTime::now();
        let audience = |found: &[String]| check.require_audience(found.iter().map(String::as_str));
        let begun = Instant::now();
        let svid = self
            .validator
            .verify(check.token.text, audience, self.times, now);
        self.counts.verification.add(begun.elapsed());
        let svid = svid?;
        debug!(caller = %svid.id, "token verified");
        if svid.audiences.len() > 1 {
            debug!(caller = %svid.id, "multi-audience token: its other audiences can replay it");
        }
        let expiry = cache::time(svid.expiry, self.times.clock_skew);
        // An `exp` before 1970, which only a large clock skew accepts, makes an entry that never holds.
        let until = expiry.unwrap_or(now);
        Ok(Verified {
            id: Arc::new(svid.id),
            audiences: cache::positions(&svid.audiences, check.in_force.accepted()),
            accepted: Arc::clone(check.in_force.accepted()),
            bundle: svid.bundle,
            since: now,
            until,
        })
    }
}

impl<'a> Check<'a> {
    /// Returns the check of a request, or `None` if the request is public.
    ///
    /// # Errors
    /// Fails when the request does not have one token.
    pub(super) fn new(in_force: &'a InForce, head: &'a Parts) -> Result<Option<Self>, Refusal> {
        let matched = in_force.matched(head);
        if matches!(matched, MatchedRule::Public) {
            return Ok(None);
        }
        let token = BearerToken::in_head(head)?;
        Ok(Some(Self {
            token,
            in_force,
            matched,
        }))
    }

    /// Refuses a token without an audience that the matching rule accepts.
    pub(super) fn require_audience<'t>(
        &self,
        found: impl Iterator<Item = &'t str> + Clone,
    ) -> Result<(), TokenFault> {
        let expected = self.matched.audiences(self.in_force);
        if found
            .clone()
            .any(|one| expected.iter().any(|own| own == one))
        {
            Ok(())
        } else {
            Err(TokenFault::audience(
                found,
                expected,
                self.matched.names_audiences(),
            ))
        }
    }

    fn authorize(&self, verified: &Verified) -> Result<Caller, Refusal> {
        let token = VerifiedToken::at_end_of(self.token.field, self.token.text);
        let id = Arc::clone(&verified.id);
        authorized(self.matched, Caller::with_token(id, verified.until, token))
    }
}

/// Returns the caller if the rule that matches its request allows it.
pub(super) fn authorized(matched: MatchedRule<'_>, caller: Caller) -> Result<Caller, Refusal> {
    let by = match matched {
        MatchedRule::Callers(rule, _) if rule.allows(&caller.id) => return Ok(caller),
        MatchedRule::Callers(rule, _) => rule.refused_by(),
        MatchedRule::Public | MatchedRule::None => RefusedBy::NoRule,
    };
    Err(Refusal::NotAllowed { caller, by })
}
