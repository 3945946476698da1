//! Compares the verdict on a token with that of the `spiffe` crate, which is an independent
//! implementation of the same standard over `jsonwebtoken`.
//!
//! `tokens` and `bundles` generate what is compared, by `choices`: random ones in a property test, and those
//! of the input in a fuzz target. Verdicts may differ for these reasons and no other:
//!
//! | kind | ours | the library | section and reason |
//! |---|---|---|---|
//! | [`NO_KID`] | accepts | refuses | JWT-SVID §2.2: `kid` is optional, and the keys of the algorithm are tried |
//! | [`ES512`] | accepts | refuses | JWT-SVID §2.1 lists ES512, which the library cannot verify |
//! | [`NBF`] | accepts | refuses | RFC 7519 §2: a NumericDate may be any number, also one between nanoseconds |
//! | [`METADATA`] | accepts | refuses | RFC 7517 §4.6, §4.7, §4.8: an `x5u`, `x5c` or `x5t` that no verification uses makes no key unusable |
//! | [`EMPTY_KID`] | refuses | accepts | policy: an empty `kid` names no key |
//! | [`LONG_ID`] | refuses | accepts | SPIFFE-ID §2.3: an ID has at most 2,048 bytes |
//! | [`ONE_FORM`] | refuses | accepts | SPIFFE-ID §2: a subject has one form, and the library normalises others |
//! | [`CLOCK`] | either | either | the clock moved between the two verifications |

mod bundles;
mod choices;
mod tokens;

use std::time::SystemTime;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use common::bearer::{
    self, Allow, Authenticator, Caller, ExplainedRule, Outcome, Pattern, Policy, Refusal,
};
use http::{HeaderValue, Request, header::AUTHORIZATION};
use serde::Deserialize;
use serde_json::Value;
use spiffe::{JwtBundle, JwtBundleSet, JwtSvid, TrustDomain};

pub use self::{bundles::documents, choices::Choices, tokens::Mint};
use crate::{SERVER_ID, jwt};

/// The kinds of differences, which the module's documentation describes.
pub const NO_KID: &str = "no kid";
/// See the module.
pub const ES512: &str = "ES512";
/// See the module.
pub const NBF: &str = "nbf is a fraction";
/// See the module.
pub const METADATA: &str = "certificates of a JWK have another type";
/// See the module.
pub const EMPTY_KID: &str = "the kid is empty";
/// See the module.
pub const LONG_ID: &str = "the ID is too long";
/// See the module.
pub const ONE_FORM: &str = "the subject has another form";
/// See the module.
pub const CLOCK: &str = "the clock moved";

/// The same bundles in the form of each implementation.
pub struct Bundles {
    /// Ours.
    pub ours: bearer::JwtBundleSet,
    /// The library's.
    pub library: JwtBundleSet,
    /// The documents, by trust domain.
    documents: Vec<(String, Value)>,
    authenticator: Authenticator<bearer::JwtBundleSet>,
}

impl Bundles {
    /// Reads JWK Sets, each of which belongs to a trust domain. The library gets them entry by entry,
    /// because it would refuse all of a set for an entry without a name.
    ///
    /// # Panics
    /// Panics when a document is not a JWK Set.
    pub fn of(documents: &[(&str, Value)]) -> Self {
        let domain = |name: &str| TrustDomain::new(name).expect("a trust domain");
        let ours: bearer::JwtBundleSet = documents
            .iter()
            .map(|(name, jwks)| {
                let bundle = bearer::JwtBundle::parse(jwks.to_string().as_bytes());
                (domain(name), bundle.expect("a bundle"))
            })
            .collect();
        let library = documents.iter().map(|(name, jwks)| {
            let mut bundle = JwtBundle::new(domain(name));
            for jwk in jwks["keys"].as_array().expect("a JWK Set") {
                let _ = bundle.add_jwk_authority_json(jwk.to_string().as_bytes());
            }
            bundle
        });
        let anybody = documents.iter().map(|(name, _)| {
            let pattern: Pattern = format!("spiffe://{name}/*").parse().expect("a pattern");
            pattern
        });
        let mut policy = Policy::new(vec![SERVER_ID.to_owned()], anybody.collect::<Allow>());
        // Each verdict comes from a verification.
        policy.token_cache = 0;
        Self {
            library: library.collect(),
            authenticator: Authenticator::new(ours.clone(), policy),
            ours,
            documents: documents
                .iter()
                .map(|(name, jwks)| ((*name).to_owned(), jwks.clone()))
                .collect(),
        }
    }

    /// Returns the entries of a trust domain that a token of this header may be verified with.
    fn entries<'a>(&'a self, domain: &str, header: &'a Value) -> impl Iterator<Item = &'a Value> {
        let mut documents = self.documents.iter();
        let document = documents.find(|(name, _)| name == domain);
        let entries = document.and_then(|(_, document)| document["keys"].as_array());
        let is_named = |entry: &&Value| header.get("kid").is_none_or(|kid| entry["kid"] == *kid);
        entries.into_iter().flatten().filter(is_named)
    }
}

/// A token's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both accept it.
    Accepted,
    /// Both refuse it.
    Refused,
    /// They differ.
    Different {
        /// Set if our validator accepts it.
        is_accepted: bool,
        /// The kind of the difference.
        reason: &'static str,
    },
    /// It is not a bearer token, so nobody verified it.
    NotAToken,
}

impl Verdict {
    /// Returns whether ours accepts the token.
    fn is_ours(self) -> bool {
        match self {
            Self::Accepted => true,
            Self::Refused | Self::NotAToken => false,
            Self::Different { is_accepted, .. } => is_accepted,
        }
    }
}

/// The longest SPIFFE ID that is accepted.
const MAX_ID: usize = 2048;

/// Compares the verdicts on a token that `mint` made.
///
/// # Panics
/// Panics when they differ for a reason that is not listed, or when a token is accepted that no key of the
/// bundles has signed as it is.
pub fn judge(token: &str, mint: &Mint, bundles: &Bundles) -> Verdict {
    let verdict = compare(token, bundles);
    if verdict.is_ours() {
        let (header, claims) = parts(token);
        let domain = domain(&claims);
        let mut signers = mint.signers(token);
        let is_right = signers.any(|key| {
            let jwk = key.jwk();
            let mut entries = bundles.entries(domain, &header);
            entries.any(|entry| is_same_key(entry, &jwk))
        });
        assert!(is_right, "a false accept: {token}");
    }
    verdict
}

/// Compares the verdicts on `token` with `bundles`, for the audience [`SERVER_ID`].
///
/// # Panics
/// Panics when they differ for a reason that is not listed.
pub fn compare(token: &str, bundles: &Bundles) -> Verdict {
    let Ok(value) = HeaderValue::try_from(format!("Bearer {token}")) else {
        return Verdict::NotAToken;
    };
    let mut request = Request::new(());
    request.headers_mut().insert(AUTHORIZATION, value);
    let head = request.into_parts().0;
    let ours = bundles.authenticator.authenticate(&head);
    check_explanation(
        token,
        &ours,
        &bundles.authenticator.explain(&head, SystemTime::now()),
    );
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
        _ => match difference(token, bundles, is_accepted) {
            Some(reason) => Verdict::Different {
                is_accepted,
                reason,
            },
            None => panic!("{token}: ours {ours:?}, the library's {library:?}"),
        },
    }
}

/// Checks that the first rule that refuses, where each one is explained, is the reason of the refusal.
fn check_explanation(token: &str, ours: &Result<Option<Caller>, Refusal>, rules: &[ExplainedRule]) {
    let refusal = rules.iter().find_map(|rule| match &rule.outcome {
        Outcome::Refused(refusal) => Some(refusal.to_string()),
        Outcome::Met(_) | Outcome::NotTried(_) => None,
    });
    let expected = ours.as_ref().err().map(ToString::to_string);
    let (_, claims) = parts(token);
    let has_clock_moved = is_at_its_end(&claims.exp) || is_at_its_end(&claims.nbf);
    assert!(
        refusal == expected || has_clock_moved,
        "{token}: {refusal:?} is explained, and {expected:?} is the verdict"
    );
}

/// Returns whether a time is so near that two verifications may differ.
fn is_at_its_end(time: &Value) -> bool {
    let time = time.as_f64();
    time.is_some_and(|time| (time - jwt::now() as f64).abs() <= 2.0)
}

/// The claims that a verification depends on. Other claims may not fit into a [`Value`].
#[derive(Default, Deserialize)]
struct Claims {
    #[serde(default)]
    sub: Value,
    #[serde(default)]
    exp: Value,
    #[serde(default)]
    nbf: Value,
}

/// Returns the header and the claims of a token, as far as they are JSON.
fn parts(token: &str) -> (Value, Claims) {
    let mut segments = token.split('.').map(|segment| {
        let octets = URL_SAFE_NO_PAD.decode(segment);
        octets.unwrap_or_default()
    });
    let (header, claims) = (segments.next(), segments.next());
    (
        serde_json::from_slice(&header.unwrap_or_default()).unwrap_or_default(),
        serde_json::from_slice(&claims.unwrap_or_default()).unwrap_or_default(),
    )
}

/// Returns the reason for a difference, if it is a known one.
fn difference(token: &str, bundles: &Bundles, is_accepted: bool) -> Option<&'static str> {
    let (header, claims) = parts(token);
    if is_at_its_end(&claims.exp) || is_at_its_end(&claims.nbf) {
        return Some(CLOCK);
    }
    if is_accepted {
        return match () {
            () if header.get("kid").is_none() => Some(NO_KID),
            () if header["alg"] == "ES512" => Some(ES512),
            () if claims.nbf.is_f64() => Some(NBF),
            () if bundles
                .entries(domain(&claims), &header)
                .any(has_odd_metadata) =>
            {
                Some(METADATA)
            }
            () => None,
        };
    }
    let subject = claims.sub.as_str().unwrap_or_default();
    match () {
        () if header["kid"] == "" => Some(EMPTY_KID),
        () if subject.len() > MAX_ID => Some(LONG_ID),
        () if !subject.starts_with("spiffe://") || has_upper_case_domain(subject) => Some(ONE_FORM),
        () => None,
    }
}

/// Returns the trust domain of the subject as it is written.
fn domain(claims: &Claims) -> &str {
    let subject = claims.sub.as_str().unwrap_or_default();
    subject.split('/').nth(2).unwrap_or_default()
}

fn is_same_key(one: &Value, other: &Value) -> bool {
    let parts = ["x", "y", "n", "e"];
    parts.iter().all(|part| one.get(part) == other.get(part))
}

/// Returns whether a member of a JWK that is about certificates has another type than RFC 7517 says.
fn has_odd_metadata(jwk: &Value) -> bool {
    let is_odd_text = |name| jwk.get(name).is_some_and(|value| !value.is_string());
    is_odd_text("x5t")
        || is_odd_text("x5u")
        || jwk.get("x5c").is_some_and(|value| !value.is_array())
}

fn has_upper_case_domain(subject: &str) -> bool {
    let domain = subject.split('/').nth(2).unwrap_or_default();
    domain.bytes().any(|byte| byte.is_ascii_uppercase())
}
