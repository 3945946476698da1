//! Tokens that were verified before, so that the next request with the same one costs no signature.
//!
//! A token is known here by its SHA-256 digest: what leaks from here is no credential, and nobody
//! can make two tokens that are taken for each other. What was verified stays true as long as the
//! bundle is the one that it was verified with and the clock is between then and `exp`. All else
//! that a verification goes by is fixed for the life of the process. Refusals are not remembered.

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{Digest, SHA256, digest};
use quick_cache::sync;
use spiffe::{BundleSource, JwtBundle, SpiffeId, TrustDomain};

/// Shared by all cores, in parts with a lock each; taken for writing only to add a token.
pub(super) type Cache = sync::Cache<TokenDigest, Arc<Verified>>;

/// A token's SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenDigest([u8; 32]);

/// What a token proved, and by what. Of bounded size, since the SPIFFE ID is.
#[derive(Debug)]
pub(super) struct Verified {
    /// The token's subject.
    pub(super) id: Arc<SpiffeId>,
    /// The bundle with the key that verified it.
    pub(super) bundle: Arc<JwtBundle>,
    /// When it was verified. Before that, by a clock that was set back, `nbf` may still be to come.
    pub(super) since: SystemTime,
    /// Its `exp`, and the clock skew that is allowed.
    pub(super) until: SystemTime,
}

impl TokenDigest {
    pub(super) fn of(token: &str) -> Self {
        let digest: Digest = digest(&SHA256, token.as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }
}

impl Verified {
    /// Whether a verification at `now` with `bundles` would find the same.
    pub(super) fn holds<B: BundleSource<Item = JwtBundle>>(
        &self,
        bundles: &B,
        now: SystemTime,
    ) -> bool {
        (self.since..self.until).contains(&now)
            && matches!(
                bundles.bundle_for_trust_domain(self.id.trust_domain()),
                Ok(Some(bundle)) if Arc::ptr_eq(&bundle, &self.bundle)
            )
    }
}

/// A time of a token, in seconds since 1970; none when the clock can't show it.
pub(super) fn time(seconds: i64, leeway: Duration) -> Option<SystemTime> {
    let since_1970 = Duration::from_secs(seconds.try_into().ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since_1970.checked_add(leeway)?)
}

/// Bundles, and the last one that was asked for: the one that a token was verified with.
#[derive(Debug)]
pub(super) struct Used<'a, B> {
    bundles: &'a B,
    last: RefCell<Option<Arc<JwtBundle>>>,
}

impl<'a, B> Used<'a, B> {
    pub(super) fn new(bundles: &'a B) -> Self {
        let last = RefCell::default();
        Self { bundles, last }
    }

    /// The last bundle that was found.
    pub(super) fn last(self) -> Option<Arc<JwtBundle>> {
        self.last.into_inner()
    }
}

impl<B: BundleSource<Item = JwtBundle>> BundleSource for Used<'_, B> {
    type Item = JwtBundle;
    type Error = B::Error;

    fn bundle_for_trust_domain(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Option<Arc<JwtBundle>>, B::Error> {
        let bundle = self.bundles.bundle_for_trust_domain(trust_domain)?;
        self.last.replace(bundle.clone());
        Ok(bundle)
    }
}

#[cfg(test)]
mod tests {
    use spiffe::JwtBundleSet;

    use super::*;

    fn bundle(trust_domain: &str) -> JwtBundle {
        let trust_domain = TrustDomain::new(trust_domain).unwrap();
        JwtBundle::from_jwt_authorities(trust_domain, br#"{"keys":[]}"#).unwrap()
    }

    #[test]
    fn what_was_verified_holds_while_nothing_that_it_went_by_changes() {
        let bundles = JwtBundleSet::from_iter([bundle("example.org"), bundle("a.example")]);
        let id = SpiffeId::new("spiffe://example.org/client").unwrap();
        let used = Used::new(&bundles);
        let found = used.bundle_for_trust_domain(id.trust_domain()).unwrap();
        assert!(found.is_some());
        let at = |seconds| time(seconds, Duration::ZERO).unwrap();
        let verified = Verified {
            id: Arc::new(id),
            bundle: used.last().unwrap(),
            since: at(10_000),
            until: at(10_300),
        };
        let same_again = JwtBundleSet::from_iter([bundle("example.org")]);
        let without = JwtBundleSet::from_iter([bundle("a.example")]);
        for (why, bundles, now, holds) in [
            ("at once", &bundles, 10_000, true),
            ("to the last second", &bundles, 10_299, true),
            ("expired", &bundles, 10_300, false),
            ("the clock was set back", &bundles, 9_999, false),
            ("it was set back by an hour", &bundles, 10_150 - 3600, false),
            (
                "it was set forward by an hour",
                &bundles,
                10_150 + 3600,
                false,
            ),
            ("and is right again", &bundles, 10_150, true),
            ("the bundle was replaced", &same_again, 10_150, false),
            ("the bundle is gone", &without, 10_150, false),
        ] {
            assert_eq!(verified.holds(bundles, at(now)), holds, "{why}");
        }
    }

    #[test]
    fn times_that_no_clock_shows_are_none() {
        assert!(time(-1, Duration::ZERO).is_none());
        assert!(time(i64::MAX, Duration::MAX).is_none());
        let epoch = SystemTime::UNIX_EPOCH;
        let in_a_minute = Some(epoch + Duration::from_secs(61));
        assert_eq!(time(1, Duration::from_secs(60)), in_a_minute);
    }

    #[test]
    fn every_byte_of_a_token_counts() {
        assert_eq!(TokenDigest::of("a.b.c"), TokenDigest::of("a.b.c"));
        assert_ne!(TokenDigest::of("a.b.c"), TokenDigest::of("a.b.C"));
    }
}
