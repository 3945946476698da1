//! Compares the verdict on a token with that of the `spiffe` crate, which is an independent
//! implementation of the same standard.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use common::bearer::{self, Allow, Authenticator, Pattern, Policy, Refusal};
use http::{HeaderValue, Request, header::AUTHORIZATION};
use serde_json::Value;
use spiffe::{JwtBundle, JwtBundleSet, JwtSvid, TrustDomain};

use crate::{SERVER_ID, jwt};

/// The same bundles in the form of each implementation.
pub struct Bundles {
    /// Ours.
    pub ours: bearer::JwtBundleSet,
    /// The library's.
    pub library: JwtBundleSet,
}

impl Bundles {
    /// Reads JWK Sets, each of which belongs to a trust domain.
    ///
    /// # Panics
    /// Panics when one of the implementations does not read them.
    pub fn of(documents: &[(&str, Value)]) -> Self {
        let documents = documents.iter().map(|(name, jwks)| {
            let domain = TrustDomain::new(name).expect("a trust domain");
            (domain, jwks.to_string())
        });
        Self {
            ours: documents
                .clone()
                .map(|(domain, jwks)| {
                    let bundle = bearer::JwtBundle::parse(jwks.as_bytes());
                    (domain, bundle.expect("a bundle"))
                })
                .collect(),
            library: documents
                .map(|(domain, jwks)| {
                    let bundle = JwtBundle::from_jwt_authorities(domain, jwks.as_bytes());
                    bundle.expect("a bundle")
                })
                .collect(),
        }
    }
}

/// A token's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both accept it.
    Accepted,
    /// Both refuse it.
    Refused,
    /// They differ, for one of the reasons in `difference`.
    Different(&'static str),
    /// It is not a bearer token, so nobody verified it.
    NotAToken,
}

/// The longest SPIFFE ID that is accepted.
const MAX_ID: usize = 2048;

/// Compares the verdicts on `token` with `bundles`, for the audience [`SERVER_ID`].
///
/// # Panics
/// Panics when they differ for a reason that is not listed in `difference`.
pub fn compare(token: &str, bundles: &Bundles) -> Verdict {
    let anybody = bundles.ours.iter().map(|(trust_domain, _)| {
        let pattern: Pattern = format!("spiffe://{trust_domain}/*")
            .parse()
            .expect("a pattern");
        pattern
    });
    let policy = Policy::new(vec![SERVER_ID.to_owned()], anybody.collect::<Allow>());
    let Ok(value) = HeaderValue::try_from(format!("Bearer {token}")) else {
        return Verdict::NotAToken;
    };
    let mut request = Request::new(());
    request.headers_mut().insert(AUTHORIZATION, value);
    let ours =
        Authenticator::new(bundles.ours.clone(), policy).authenticate(&request.into_parts().0);
    let is_accepted = match &ours {
        // A trust domain's own ID is not one of a workload, which no pattern matches.
        Ok(_) | Err(Refusal::NotAllowed { .. }) => true,
        Err(Refusal::InvalidToken(_)) => false,
        Err(_) => return Verdict::NotAToken,
    };
    let library = JwtSvid::parse_and_validate(token, &bundles.library, &[SERVER_ID]);
    match (is_accepted, library.is_ok()) {
        (true, true) => Verdict::Accepted,
        (false, false) => Verdict::Refused,
        _ => match difference(token, is_accepted) {
            Some(reason) => Verdict::Different(reason),
            None => panic!("{token}: ours {ours:?}, the library's {library:?}"),
        },
    }
}

/// Returns the reason for a difference, if it is a known one.
fn difference(token: &str, is_accepted: bool) -> Option<&'static str> {
    let mut parts = token.split('.').map(|part| {
        let octets = URL_SAFE_NO_PAD.decode(part).unwrap_or_default();
        serde_json::from_slice::<Value>(&octets).unwrap_or_default()
    });
    let (header, claims) = (parts.next()?, parts.next()?);
    let is_at_its_end = |name: &str| {
        let time = claims[name].as_f64();
        time.is_some_and(|time| (time - jwt::now() as f64).abs() <= 2.0)
    };
    if is_at_its_end("exp") || is_at_its_end("nbf") {
        return Some("the clock moved between the two verifications");
    }
    if is_accepted {
        return match () {
            () if header.get("kid").is_none() => Some("JWT-SVID §2.2: kid is optional"),
            () if header["alg"] == "ES512" => Some("JWT-SVID §2.1 lists ES512"),
            () if claims["nbf"].is_f64() => {
                Some("RFC 7519 §2: nbf may be a fraction that no nanosecond is")
            }
            () => None,
        };
    }
    let subject = claims["sub"].as_str().unwrap_or_default();
    match () {
        () if header["kid"] == "" => Some("policy: an empty kid names no key"),
        () if subject.len() > MAX_ID => Some("policy: SPIFFE IDs of at most 2,048 bytes"),
        () if !subject.starts_with("spiffe://") || has_upper_case_domain(subject) => {
            Some("policy: a subject has one form")
        }
        () => None,
    }
}

fn has_upper_case_domain(subject: &str) -> bool {
    let domain = subject.split('/').nth(2).unwrap_or_default();
    domain.bytes().any(|byte| byte.is_ascii_uppercase())
}
