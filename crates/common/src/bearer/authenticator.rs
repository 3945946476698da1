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
    access::{Decides, Holder, InForce, RulesHandle},
    allow::Rule,
    cache::{self, Cache, TokenDigest, Verified},
    caller::{Caller, Credential},
    counts::Counts,
    fault::TokenFault,
    header,
    jwt::{JwtBundle, Times, Validator, VerifiedToken},
    policy::Policy,
    queue::VerificationQueue,
    refusal::Refusal,
};
use crate::workload::JwtSource;

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

/// The check of one request: its token, and what decides about it.
pub(super) struct Check<'a> {
    pub(super) token: BearerToken<'a>,
    in_force: &'a InForce,
    pub(super) decides: Decides<'a>,
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

    fn with(bundles: B, rules: Holder, times: Times, cache: usize) -> Self {
        let counts = Arc::default();
        Self {
            validator: Validator::new(bundles),
            rules,
            times,
            cache: (cache > 0).then(|| cache::cache(cache, &counts)),
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
    /// It takes the whole head because the rules are about its method and path, and because other kinds
    /// of credentials travel in other headers.
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
        let verified = match self.known(&check)? {
            Some(verified) => verified,
            None => self.verify_and_remember(&check)?,
        };
        check.authorize(&verified).map(Some)
    }

    /// Authenticates as [`Self::authenticate`] does, on a core that also has other work. A token that
    /// is not in the cache waits in `queue`, which serves callers source by source. `source` is the
    /// caller's network ([`crate::source::network`]).
    ///
    /// # Errors
    /// Fails as [`Self::authenticate`] does, and when too many verifications wait already.
    pub async fn authenticate_queued(
        &self,
        head: &Parts,
        source: IpAddr,
        queue: &VerificationQueue,
    ) -> Result<Option<Caller>, Refusal> {
        let decided = self.decide_queued(head, source, queue).await;
        self.counts.note(&decided);
        decided
    }

    /// Decides as [`Self::authenticate_queued`] does, and does not count the outcome.
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
                match self.known(&check)? {
                    Some(verified) => verified,
                    None => self.verify_and_remember(&check)?,
                }
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
        match in_force.decides(head) {
            Decides::Public => Ok(None),
            decides => authorized(decides, Caller::new(id, Credential::Certificate)).map(Some),
        }
    }

    /// Returns the cached verification of a token, or `None` if the token has to be verified.
    ///
    /// # Errors
    /// Fails when the token is known and has no audience of the rule.
    fn known(&self, check: &Check<'_>) -> Result<Option<Arc<Verified>>, Refusal> {
        let verified = self.cache.as_ref();
        let verified = verified.and_then(|cache| cache.get(check.token.digest()));
        let (accepted, bundles) = (check.in_force.accepted(), self.validator.bundles());
        let holds = |verified: &Arc<Verified>| verified.holds(accepted, bundles, SystemTime::now());
        let Some(verified) = verified.filter(holds) else {
            return Ok(None);
        };
        self.counts.cache_hits.add(1);
        check.audience(verified.audiences())?;
        Ok(Some(verified))
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
        let audience = |found: &[String]| check.audience(found.iter().map(String::as_str));
        let begun = Instant::now();
        let verified = self
            .validator
            .verify(check.token.text, audience, self.times, now);
        self.counts.verification.add(begun.elapsed());
        let svid = verified?;
        debug!(caller = %svid.id, "token verified");
        if svid.audiences.len() > 1 {
            debug!(caller = %svid.id, "multi-audience token: its other audiences can replay it");
        }
        let expiry = cache::time(svid.expiry, self.times.clock_skew);
        Ok(Verified {
            id: Arc::new(svid.id),
            audiences: cache::positions(&svid.audiences, check.in_force.accepted()),
            accepted: Arc::clone(check.in_force.accepted()),
            bundle: svid.bundle,
            since: now,
            until: expiry.unwrap_or(now),
        })
    }
}

impl<'a> Check<'a> {
    /// Returns the check of a request, or `None` if the request is public.
    ///
    /// # Errors
    /// Fails when the request does not have one token.
    pub(super) fn new(in_force: &'a InForce, head: &'a Parts) -> Result<Option<Self>, Refusal> {
        let decides = in_force.decides(head);
        if matches!(decides, Decides::Public) {
            return Ok(None);
        }
        let token = BearerToken::in_head(head)?;
        Ok(Some(Self {
            token,
            in_force,
            decides,
        }))
    }

    /// Refuses a token that has none of the audiences of which it must have one.
    pub(super) fn audience<'t>(
        &self,
        found: impl Iterator<Item = &'t str> + Clone,
    ) -> Result<(), TokenFault> {
        let expected = self.decides.audiences(self.in_force);
        match found
            .clone()
            .any(|one| expected.iter().any(|own| own == one))
        {
            true => Ok(()),
            false => Err(TokenFault::audience(
                found,
                expected,
                self.decides.names_audiences(),
            )),
        }
    }

    fn authorize(&self, verified: &Verified) -> Result<Caller, Refusal> {
        let token = VerifiedToken::at_end_of(self.token.field, self.token.text);
        let id = Arc::clone(&verified.id);
        authorized(self.decides, Caller::with_token(id, verified.until, token))
    }
}

/// Returns the caller if the deciding rule allows it.
pub(super) fn authorized(decides: Decides<'_>, caller: Caller) -> Result<Caller, Refusal> {
    let rule = match decides {
        Decides::Callers(rule, _) if rule.allows(&caller.id) => return Ok(caller),
        Decides::Callers(rule, _) => rule.refusing(),
        Decides::Public | Decides::Nothing => Rule::NoRule,
    };
    Err(Refusal::NotAllowed { caller, rule })
}
