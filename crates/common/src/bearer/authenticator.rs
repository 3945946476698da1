//! The check of one request head, from its header to the verified caller.

use std::{cell::OnceCell, net::IpAddr, sync::Arc, time::SystemTime};

use http::request::Parts;
use spiffe::{BundleSource, SpiffeId};
use tracing::debug;

use super::{
    cache::{self, Cache, TokenDigest, Verified},
    header,
    jwt::{JwtBundle, Validator},
    policy::Policy,
    queue::VerificationQueue,
    refusal::Refusal,
};
use crate::workload::JwtSource;

/// Verifies the bearer token of requests with JWT bundles: the live ones of a [`JwtSource`], or a
/// fixed set.
#[derive(Debug)]
pub struct Authenticator<B = JwtSource> {
    validator: Validator<B>,
    policy: Policy,
    cache: Option<Cache>,
}

/// The verified caller of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The SPIFFE ID of the caller: the token's subject (JWT-SVID §3.1), or the ID of the certificate.
    pub id: Arc<SpiffeId>,
    /// The credential that proves the ID.
    pub credential: Credential,
}

/// The kinds of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A JWT-SVID in the request.
    Token,
    /// The X.509-SVID of the connection.
    Certificate,
}

/// The token of a request, and its digest once that was computed.
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
    /// Panics when the policy has no audience, or an empty one (JWT-SVID §3.2). Without an audience
    /// every token would be refused; an empty one would accept tokens that are for nobody.
    #[must_use]
    pub fn new(bundles: B, policy: Policy) -> Self {
        let audiences = &policy.audiences;
        assert!(
            !audiences.is_empty() && !audiences.iter().any(String::is_empty),
            "an authenticator needs audiences, and none of them empty"
        );
        let cache = (policy.token_cache > 0).then(|| Cache::new(policy.token_cache));
        Self {
            validator: Validator::new(bundles),
            policy,
            cache,
        }
    }

    /// Authenticates and authorizes the caller of the request with this head.
    ///
    /// It takes the whole head because other kinds of credentials travel in other headers.
    ///
    /// # Errors
    /// Fails when a step refuses the request. The [`Refusal`] names the step, its answer and its log
    /// text.
    pub fn authenticate(&self, head: &Parts) -> Result<Caller, Refusal> {
        let token = BearerToken::in_head(head)?;
        let id = match self.known(&token) {
            Some(id) => id,
            None => self.verify_and_remember(&token)?,
        };
        self.authorize(id, Credential::Token)
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
    ) -> Result<Caller, Refusal> {
        let token = BearerToken::in_head(head)?;
        let id = match self.known(&token) {
            Some(id) => id,
            None => {
                let _permit = queue.permit(source).await?;
                // Another request with the same token may have been verified meanwhile.
                match self.known(&token) {
                    Some(id) => id,
                    None => self.verify_and_remember(&token)?,
                }
            }
        };
        self.authorize(id, Credential::Token)
    }

    /// Authorizes a caller whose SPIFFE ID is verified.
    pub(super) fn authorize(
        &self,
        id: Arc<SpiffeId>,
        credential: Credential,
    ) -> Result<Caller, Refusal> {
        if !self.policy.allow.allows(&id) {
            return Err(Refusal::NotAllowed {
                caller: SpiffeId::clone(&id),
                rule: self.policy.allow.rule().clone(),
            });
        }
        Ok(Caller { id, credential })
    }

    fn known(&self, token: &BearerToken<'_>) -> Option<Arc<SpiffeId>> {
        let verified = self.cache.as_ref()?.get(token.digest())?;
        let holds = verified.holds(self.validator.bundles(), SystemTime::now());
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
        let svid = self.validator.verify(token, &self.policy, now)?;
        debug!(caller = %svid.id, "token verified");
        if svid.audiences.len() > 1 {
            debug!(caller = %svid.id, "multi-audience token: its other audiences can replay it");
        }
        let expiry = cache::time(svid.expiry, self.policy.clock_skew);
        Ok(Verified {
            id: Arc::new(svid.id),
            bundle: svid.bundle,
            since: now,
            until: expiry.unwrap_or(now),
        })
    }
}
