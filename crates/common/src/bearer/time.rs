//! What the library leaves open about a token's times: clocks that differ, and very long lives.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{DecodingKey, Validation, dangerous};
use serde::{Deserialize, de::IgnoredAny};
use spiffe::{
    BundleSource, JwtBundle, JwtSvid, JwtSvidError,
    JwtVerificationErrorKind::{Expired, NotYetValid},
};

use super::{Policy, TokenFault};
use crate::sanitize::Sanitized;

/// The one claim that the library does not read. A second `iat` in the payload is an error.
#[derive(Deserialize)]
struct IssuedAt {
    iat: Option<f64>,
}

/// When a token says that it is valid, in seconds since 1970.
#[derive(Deserialize)]
struct Validity {
    exp: f64,
    nbf: Option<f64>,
}

/// Accepts a token that `error` refused for its times alone, if they are within the clock skew.
///
/// The library has no leeway, and leaves the order of its checks open, so that its word "expired"
/// does not say that the signature is good. That, the audience and the times are verified again, by
/// the crate that does it for the library. Only if the times are near: a token that is refused must
/// not cost two signature checks.
pub(super) fn forgive<B: BundleSource<Item = JwtBundle>>(
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

/// Whether the clock is within `skew` of the token's times, give or take a second. Nothing is verified
/// here: an answer of no refuses the token, and after a yes all is verified.
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

/// Refuses a verified token that lives for longer than `max`: from its `iat`, or from now if it has
/// none or one in the future.
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

/// In seconds since 1970; a clock that is set before that shows 1970.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
