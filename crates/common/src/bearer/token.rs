//! The verification of a token as a JWT-SVID (JWT-SVID §2, §3, appendix A).

use spiffe::{BundleSource, JwtBundle, JwtSvid};
use tracing::debug;

use super::{
    policy::Policy,
    refusal::{Refusal, TokenFault},
    time,
};

/// The longest SPIFFE ID that is accepted, in bytes; SPIFFE-ID §2.3 demands support up to it.
const MAX_ID: usize = 2048;

/// Verifies the token's form, signature, audience and times with the `spiffe` crate, and then checks
/// what that crate accepts and this project refuses.
pub(super) fn verify<B: BundleSource<Item = JwtBundle>>(
    token: &str,
    bundles: &B,
    policy: &Policy,
) -> Result<JwtSvid, Refusal>
where
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let svid = JwtSvid::parse_and_validate(token, bundles, &policy.audiences)
        .or_else(|error| time::accept_within_skew(error, token, bundles, policy))
        .map_err(|error| Refusal::from_validation(error, token, &policy.audiences))?;
    // The library normalises `SPIFFE://` and upper-case trust domains. Here only the canonical form of
    // a subject is accepted.
    let canonical = svid.spiffe_id().to_string();
    if svid.claims().sub() != canonical || canonical.len() > MAX_ID {
        return Err(TokenFault::Subject.into());
    }
    if svid.key_id().is_empty() {
        return Err(TokenFault::KeyIdMissing.into());
    }
    if svid.audience().len() > 1 {
        debug!(
            sub = canonical,
            "multi-audience token: its other audiences can replay it"
        );
    }
    if let Some(max) = policy.max_token_lifetime {
        time::check_lifetime(&svid, max)?;
    }
    Ok(svid)
}
