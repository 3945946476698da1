//! A token → the JWT-SVID that it is (JWT-SVID §2, §3, appendix A).

use spiffe::{BundleSource, JwtBundle, JwtSvid};
use tracing::debug;

use super::{Policy, Refusal, TokenFault, time};

/// A SPIFFE ID longer than this is refused; SPIFFE-ID §2.3 demands support up to it.
const MAX_ID: usize = 2048;

/// Verifies the token's form, signature, audience and times, then what the library lets through.
pub(super) fn verify<B: BundleSource<Item = JwtBundle>>(
    token: &str,
    bundles: &B,
    policy: &Policy,
) -> Result<JwtSvid, Refusal>
where
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let svid = JwtSvid::parse_and_validate(token, bundles, &policy.audiences)
        .or_else(|error| time::forgive(error, token, bundles, policy))
        .map_err(|error| Refusal::from_validation(error, token, &policy.audiences))?;
    // The library normalises `SPIFFE://` and upper-case trust domains; a subject has one form here.
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
            "multi-audience token: whoever else it is for can replay it"
        );
    }
    if let Some(max) = policy.max_token_lifetime {
        time::check_lifetime(&svid, max)?;
    }
    Ok(svid)
}
