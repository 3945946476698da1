//! Checks of a token's times that the `spiffe` crate leaves open: clock skew and the longest lifetime.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{DecodingKey, Validation, dangerous};
use serde::{Deserialize, de::IgnoredAny};
use spiffe::{
    BundleSource, JwtBundle, JwtSvid, JwtSvidError,
    JwtVerificationErrorKind::{Expired, NotYetValid},
};

use super::{policy::Policy, refusal::TokenFault};
use crate::sanitize::Sanitized;

/// The claim that the library does not read. A second `iat` in the payload is an error.
#[derive(Deserialize)]
struct IssuedAt {
    iat: Option<f64>,
}

/// The times between which a token is valid, in seconds since 1970.
#[derive(Deserialize)]
struct Validity {
    exp: f64,
    nbf: Option<f64>,
}

/// Accepts a token that `error` refused for its times alone, if they are within the clock skew.
///
/// The library accepts no skew. Its error "expired" does not say that the signature is good, because
/// the order of its checks is not defined. Signature, audience and times are therefore verified again
/// with `jsonwebtoken`, which the library uses too.
///
/// The second verification takes place only if the times are near the clock. Otherwise a refused token
/// would cost two signature checks: 159 µs instead of 65 µs for a token that expired years ago
/// (`cargo bench -p common --bench bearer -- refused`).
pub(super) fn accept_within_skew<B: BundleSource<Item = JwtBundle>>(
    error: JwtSvidError,
    token: &str,
    bundles: &B,
    policy: &Policy,
) -> Result<JwtSvid, JwtSvidError> {
    let of_time = matches!(&error, JwtSvidError::InvalidToken(fault) if matches!(fault.kind(), Expired | NotYetValid));
    if !of_time || policy.clock_skew.is_zero() || !is_near(token, policy.clock_skew) {
        return Err(error);
    }
    verify_with_leeway(token, bundles, policy).ok_or(error)
}

/// Returns whether the clock is within `skew` and one second of the token's times, which are read
/// without verification. A `false` refuses the token; a `true` leads to a full verification.
fn is_near(token: &str, skew: Duration) -> bool {
    let Ok(Validity { exp, nbf }) = dangerous::insecure_decode_claims(token) else {
        return false;
    };
    let (now, skew) = (now(), skew.as_secs_f64() + 1.0);
    exp >= now - skew && nbf.is_none_or(|nbf| nbf <= now + skew)
}

fn verify_with_leeway<B: BundleSource<Item = JwtBundle>>(
    token: &str,
    bundles: &B,
    policy: &Policy,
) -> Option<JwtSvid> {
    let svid = JwtSvid::parse_insecure(token).ok()?;
    let bundle = bundles
        .bundle_for_trust_domain(svid.spiffe_id().trust_domain())
        .ok()??;
    let authority = bundle.find_jwt_authority(svid.key_id())?;
    let jwk = serde_json::from_slice(authority.jwk_json()).ok()?;
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    let mut validation = Validation::new(jsonwebtoken::decode_header(token).ok()?.alg);
    validation.leeway = policy.clock_skew.as_secs();
    validation.validate_nbf = true;
    validation.set_audience(&policy.audiences);
    jsonwebtoken::decode::<IgnoredAny>(token, &key, &validation).ok()?;
    Some(svid)
}

/// Refuses a verified token that lives for longer than `max`. Its life starts at `iat`, or now if it
/// has no `iat` or one in the future.
pub(super) fn check_lifetime(svid: &JwtSvid, max: Duration) -> Result<(), TokenFault> {
    let IssuedAt { iat } = dangerous::insecure_decode_claims(svid.token())
        .map_err(|error| TokenFault::Parse(Sanitized(error.to_string())))?;
    let now = now();
    let from = iat.map_or(now, |iat| iat.min(now));
    if svid.claims().exp() as f64 - from > max.as_secs_f64() {
        return Err(TokenFault::Lifetime(max));
    }
    Ok(())
}

/// Returns the time in seconds since 1970, or zero if the clock is set before that.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
