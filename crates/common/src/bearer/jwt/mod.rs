//! The verification of a token as a JWT-SVID (JWT-SVID §2, §3, appendix A).
//!
//! The `spiffe` crate's validation does not serve. It refuses a token without `kid`, although JWT-SVID
//! §2.2 allows it, can't verify ES512, and parses the key again for each token. The tests compare both
//! verdicts, with that crate as the oracle.
//!
//! - `token`, `claims`: the token's octets, read once and strictly
//! - `explain`: each rule for a token, one by one
//! - `verified`, `json`: all claims of a verified token, when a service asks for them
//!
//! Nothing here needs constant time, because no secret is compared. The keys are public, and the cache finds a
//! token by its digest, whose comparison tells nothing about the token.
//!
//! Everything that a peer chooses has a limit:
//!
//! | what | limit |
//! |---|---|
//! | `Authorization` field | 8 KiB |
//! | header members | `alg`, `kid`, `typ`, each once |
//! | `sub` | 2,048 bytes |
//! | `aud` | 32 audiences |
//! | `exp`, `nbf` | the year 9999 |
//! | other claims that nobody asks for | the 8 KiB |
//! | claims that a service asks for | 32 levels, 1,024 values, 4 KiB for a string or a name; each name once |
//! | keys that are tried without `kid` | 8 |
//! | RSA keys | 2,048 to 8,192 bits |

mod claims;
mod explain;
mod json;
mod token;
#[cfg(test)]
mod vectors;
mod verified;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use spiffe::{BundleSource, SpiffeId, TrustDomain};

use self::token::{Jws, Token};
pub(super) use self::verified::VerifiedToken;
pub use self::verified::{Claims, ClaimsFault};
use super::{fault::TokenFault, refusal::Refusal};
use crate::{
    jwt_bundle::{JwtBundle, Key, KeyFault},
    sanitize::Sanitized,
};

/// The longest SPIFFE ID that is accepted, in bytes; SPIFFE-ID §2.3 demands support up to it.
const MAX_ID: usize = 2048;

/// A verified token.
#[derive(Debug)]
pub(super) struct Svid {
    /// The token's subject.
    pub(super) id: SpiffeId,
    /// Its `exp`, in seconds since 1970.
    pub(super) expiry: i64,
    pub(super) audiences: Vec<String>,
    /// The bundle with the key that verified it.
    pub(super) bundle: Arc<JwtBundle>,
}

/// The rules for a token's times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// The largest accepted difference between this machine's clock and the issuer's.
    pub(super) clock_skew: Duration,
    /// The longest accepted lifetime; `None` accepts any.
    pub(super) max_lifetime: Option<Duration>,
}

/// Verifies tokens with the keys of `bundles`.
#[derive(Debug)]
pub(super) struct Validator<B> {
    bundles: B,
}

impl<B> Validator<B> {
    pub(super) fn new(bundles: B) -> Self {
        Self { bundles }
    }

    pub(super) fn bundles(&self) -> &B {
        &self.bundles
    }
}

impl<B: BundleSource<Item = JwtBundle>> Validator<B>
where
    B::Error: std::error::Error + Send + Sync + 'static,
{
    /// Verifies a token at the time `now`. Keys are looked up only for a token without another fault, and
    /// the signature is checked last, because it costs the most. `audience` checks the token's audiences.
    ///
    /// # Errors
    /// Fails when the token does not prove its subject to this audience now, or when there is nothing
    /// to verify it with.
    pub(super) fn verify(
        &self,
        token: &str,
        audience: impl FnOnce(&[String]) -> Result<(), TokenFault>,
        times: Times,
        now: SystemTime,
    ) -> Result<Svid, Refusal> {
        let token = Token::read(token)?;
        let id = subject(&token.claims.subject)?;
        audience(&token.claims.audiences)?;
        check_times(&token, times, seconds(now)?)?;
        let bundle = self.bundle(id.trust_domain())?;
        signer(&token.jws, &bundle, id.trust_domain())?;
        Ok(Svid {
            id,
            expiry: token.claims.expiry,
            audiences: token.claims.audiences,
            bundle,
        })
    }

    /// Returns the bundle of a trust domain.
    ///
    /// # Errors
    /// Fails when there is no such bundle, or when no bundle may be used at present.
    fn bundle(&self, trust_domain: &TrustDomain) -> Result<Arc<JwtBundle>, Refusal> {
        let bundle = self.bundles.bundle_for_trust_domain(trust_domain);
        let bundle = bundle.map_err(|error| Refusal::NoTrust(Box::new(error)))?;
        let missing = || TokenFault::NoBundle(Sanitized(trust_domain.to_string()));
        Ok(bundle.ok_or_else(missing)?)
    }
}

/// Parses a subject as a SPIFFE ID. Only the canonical form is accepted, although the library would
/// normalise others.
fn subject(text: &str) -> Result<SpiffeId, TokenFault> {
    let id = SpiffeId::new(text).map_err(|_| TokenFault::Subject)?;
    let is_canonical = text.len() <= MAX_ID && id.to_string() == text;
    is_canonical.then_some(id).ok_or(TokenFault::Subject)
}

/// Checks `exp`, `nbf` and, with a limit, the time between `iat` and `exp`, at the time `now` in seconds
/// since 1970.
fn check_times(token: &Token<'_>, times: Times, now: f64) -> Result<(), TokenFault> {
    check_expiry(token, times, now)?;
    check_not_before(token, times, now)?;
    match times.max_lifetime {
        Some(max) => check_lifetime(token, max, now),
        None => Ok(()),
    }
}

fn check_expiry(token: &Token<'_>, times: Times, now: f64) -> Result<(), TokenFault> {
    let has_expired = now >= token.claims.expiry as f64 + times.clock_skew.as_secs_f64();
    (!has_expired).then_some(()).ok_or(TokenFault::Expired)
}

fn check_not_before(token: &Token<'_>, times: Times, now: f64) -> Result<(), TokenFault> {
    let not_before = token.claims.not_before;
    let is_early = not_before.is_some_and(|start| now + times.clock_skew.as_secs_f64() < start);
    (!is_early).then_some(()).ok_or(TokenFault::NotYetValid)
}

/// Refuses a token that lives for longer than `max`. Its life begins at its `iat`, or now if that is
/// missing or in the future.
fn check_lifetime(token: &Token<'_>, max: Duration, now: f64) -> Result<(), TokenFault> {
    let issued_at = claims::issued_at(&token.jws.payload)?;
    let from = issued_at.map_or(now, |time| time.min(now));
    if token.claims.expiry as f64 - from > max.as_secs_f64() {
        Err(TokenFault::Lifetime(max))
    } else {
        Ok(())
    }
}

/// Returns the key that made the signature: the one that the token names or, without a name, one of its
/// algorithm (JWT-SVID §2.2).
fn signer<'b>(
    jws: &Jws<'_>,
    bundle: &'b JwtBundle,
    trust_domain: &TrustDomain,
) -> Result<&'b Key, TokenFault> {
    let algorithm = jws.header.algorithm;
    let verifies = |key: &&Key| key.verifies(algorithm, jws.message, &jws.signature);
    let signer = match jws.header.key_id.as_deref() {
        Some(key_id) => {
            let missing = || TokenFault::NoAuthority {
                key_id: Sanitized(key_id.to_owned()),
                trust_domain: Sanitized(trust_domain.to_string()),
            };
            let key = bundle.get(key_id, algorithm).ok_or_else(missing)?;
            let fault = |fault: KeyFault| TokenFault::Authority(Sanitized(fault.to_string()));
            Some(key.map_err(fault)?).filter(verifies)
        }
        None => bundle.of_algorithm(algorithm).find(verifies),
    };
    signer.ok_or(TokenFault::Signature)
}

/// Returns the time in seconds since 1970. Every token would be valid by a clock that is set before
/// that, so such a clock verifies none.
fn seconds(time: SystemTime) -> Result<f64, Refusal> {
    let since = time.duration_since(UNIX_EPOCH);
    let error = |_| Refusal::NoTrust("the clock is set to a time before 1970".into());
    since.map(|since| since.as_secs_f64()).map_err(error)
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

    use super::*;
    use crate::jwt_bundle::JwtBundleSet;

    #[test]
    fn clock_before_1970_is_a_fault_of_the_server_j203() {
        let claims = r#"{"sub":"spiffe://example.org/client","aud":"x","exp":1}"#;
        let parts = [r#"{"alg":"ES256"}"#, claims, ""].map(|part| URL_SAFE_NO_PAD.encode(part));
        let validator = Validator::new(JwtBundleSet::default());
        let times = Times {
            clock_skew: Duration::ZERO,
            max_lifetime: None,
        };
        for (now, status) in [
            (UNIX_EPOCH - Duration::from_nanos(1), 503),
            (UNIX_EPOCH, 401),
        ] {
            let refusal = validator.verify(&parts.join("."), |_| Ok(()), times, now);
            assert_eq!(refusal.unwrap_err().status(), status);
        }
    }
}
