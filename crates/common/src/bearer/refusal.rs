//! Why a request was refused: what the caller is told (RFC 6750 §3) and what the log says.
//!
//! The two differ on purpose. Every bad token gets the same answer, so that it says nothing about
//! keys or clocks; the log has the reason, in the words of go-spiffe where that has words for it.

use std::time::Duration;

use http::{
    HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE},
};
use spiffe::{JwtSvid, JwtSvidError, JwtVerificationErrorKind, SpiffeId};

use crate::sanitize::Sanitized;

/// A request that is not let through, by the step that refused it.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No credentials of the Bearer scheme.
    #[error("Malformed header: no bearer token")]
    NoCredentials,
    /// An `Authorization` header that breaks the syntax of RFC 6750 §2.1.
    #[error("Malformed header: {0}")]
    Malformed(#[from] Malformed),
    /// An `Authorization` header that is longer than any token should be.
    #[error("Malformed header: Authorization of more than 8 KiB")]
    TooLong,
    /// A token that does not prove a caller.
    #[error("Invalid token: jwtsvid: {0}")]
    InvalidToken(#[from] TokenFault),
    /// A verified caller that the policy does not allow.
    #[error("Not allowed: {} matches no allowed pattern", Sanitized(.0.to_string()))]
    NotAllowed(SpiffeId),
    /// The server has nothing to check with: its own fault, not the caller's.
    #[error("Cannot check tokens: {0}")]
    NoTrust(Box<dyn std::error::Error + Send + Sync>),
    /// So many tokens wait to be checked that one more would wait for too long.
    #[error("Cannot check tokens: {0} wait to be checked on this core")]
    Busy(usize),
}

/// What is wrong with the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// More than one `Authorization` header.
    #[error("more than one Authorization header")]
    Repeated,
    /// `Bearer` alone.
    #[error("no token after Bearer")]
    NoToken,
    /// Something else than one token.
    #[error("what follows Bearer is not one token")]
    Token,
}

/// What is wrong with the token. Texts are go-spiffe's where it makes the same distinction.
#[derive(Debug, thiserror::Error)]
pub enum TokenFault {
    /// Not a JWT in compact serialization with a header and claims of the right types.
    #[error("unable to parse JWT token: {0}")]
    Parse(Sanitized<String>),
    /// A `typ` other than JWT or JOSE (JWT-SVID §2.3).
    #[error("token header type not equal to either JWT or JOSE")]
    Type,
    /// An `alg` that JWT-SVID §2.1 does not list, or that can't be verified here.
    #[error("token signature algorithm is not supported")]
    Algorithm,
    /// No `kid`, so no key to check with.
    #[error("token header missing key id")]
    KeyIdMissing,
    /// A `sub` that is not one SPIFFE ID in its canonical form.
    #[error("token has an invalid subject claim")]
    Subject,
    /// No bundle for the subject's trust domain.
    #[error("no bundle found for trust domain {0:?}")]
    NoBundle(Sanitized<String>),
    /// No key of that name in the bundle of the subject's trust domain.
    #[error("no JWT authority {key_id:?} found for trust domain {trust_domain:?}")]
    NoAuthority {
        /// The token's `kid`.
        key_id: Sanitized<String>,
        /// The trust domain of its subject.
        trust_domain: Sanitized<String>,
    },
    /// The key was found and can't verify this token: wrong type, too weak, other purpose.
    #[error("JWT authority cannot verify the token: {0}")]
    Authority(Sanitized<String>),
    /// The signature is another key's, or no signature.
    #[error("token signature is invalid")]
    Signature,
    /// Past its `exp`.
    #[error("token has expired")]
    Expired,
    /// Before its `nbf`.
    #[error("token is not valid yet")]
    NotYetValid,
    /// Lives for longer than the policy wants.
    #[error("token lifetime is longer than {}", humantime::format_duration(*.0))]
    Lifetime(Duration),
    /// For somebody else.
    #[error("expected audience in {expected:?} (audience={found:?})")]
    Audience {
        /// What this server accepts.
        expected: Vec<String>,
        /// What the token says.
        found: Vec<Sanitized<String>>,
    },
}

/// Most audiences of a token that go to the log.
const MAX_AUDIENCES: usize = 4;

impl Refusal {
    /// Sorts a validation error by whose fault it is.
    pub(super) fn from_validation(error: JwtSvidError, token: &str, audiences: &[String]) -> Self {
        match error {
            JwtSvidError::BundleSourceError(error) => Self::NoTrust(error),
            JwtSvidError::InvalidVerificationTime => Self::NoTrust(error.into()),
            error => Self::InvalidToken(TokenFault::from_validation(error, token, audiences)),
        }
    }

    /// The status that the caller sees. The one place where a refusal becomes a status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoCredentials | Self::InvalidToken(_) => StatusCode::UNAUTHORIZED,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::NotAllowed(_) => StatusCode::FORBIDDEN,
            Self::NoTrust(_) | Self::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Returns the answer's head: status, challenge and, for a fault that passes, when to come back. It
    /// says no more about the refusal.
    #[must_use]
    pub fn response(&self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(challenge) = self.challenge() {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        response
    }

    /// RFC 6750 §3: no `error` where no credentials of ours were presented.
    fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::NoCredentials => Some(r#"Bearer realm="spiffe""#),
            Self::Malformed(_) => Some(r#"Bearer realm="spiffe", error="invalid_request""#),
            Self::InvalidToken(_) => Some(r#"Bearer realm="spiffe", error="invalid_token""#),
            Self::NotAllowed(_) => Some(r#"Bearer realm="spiffe", error="insufficient_scope""#),
            Self::TooLong | Self::NoTrust(_) | Self::Busy(_) => None,
        }
    }

    /// An agent that restarts is back within seconds, a queue is empty sooner.
    fn retry_after(&self) -> Option<&'static str> {
        match self {
            Self::NoTrust(_) => Some("5"),
            Self::Busy(_) => Some("1"),
            _ => None,
        }
    }
}

impl TokenFault {
    fn from_validation(error: JwtSvidError, token: &str, audiences: &[String]) -> Self {
        match error {
            JwtSvidError::InvalidToken(error) => match error.kind() {
                JwtVerificationErrorKind::Expired => Self::Expired,
                JwtVerificationErrorKind::NotYetValid => Self::NotYetValid,
                JwtVerificationErrorKind::AudienceMismatch => Self::audience(token, audiences),
                _ => Self::Signature,
            },
            JwtSvidError::InvalidAudience(..) => Self::audience(token, audiences),
            JwtSvidError::InvalidSubject(_) => Self::Subject,
            JwtSvidError::MissingKeyId => Self::KeyIdMissing,
            JwtSvidError::InvalidTyp => Self::Type,
            JwtSvidError::UnsupportedAlgorithm | JwtSvidError::BackendUnsupportedAlgorithm(_) => {
                Self::Algorithm
            }
            JwtSvidError::BundleNotFound(trust_domain) => {
                Self::NoBundle(Sanitized(trust_domain.to_string()))
            }
            JwtSvidError::AuthorityNotFound(key_id) => Self::no_authority(key_id, token),
            JwtSvidError::InvalidAuthorityJwk(_)
            | JwtSvidError::InvalidAuthorityMetadata(_)
            | JwtSvidError::InvalidAuthorityKeyComponent(_)
            | JwtSvidError::NonCanonicalRsaComponent(_)
            | JwtSvidError::WeakRsaAuthority(_)
            | JwtSvidError::AuthorityAlgorithmMismatch { .. }
            | JwtSvidError::AuthorityCurveMismatch(_)
            | JwtSvidError::AuthorityVerificationNotPermitted
            | JwtSvidError::UnsupportedAuthorityPurpose => {
                Self::Authority(Sanitized(error.to_string()))
            }
            error => Self::Parse(Sanitized(error.to_string())),
        }
    }

    fn no_authority(key_id: String, token: &str) -> Self {
        let trust_domain = JwtSvid::parse_insecure(token).map_or_else(
            |_| String::new(),
            |svid| svid.spiffe_id().trust_domain().to_string(),
        );
        Self::NoAuthority {
            key_id: Sanitized(key_id),
            trust_domain: Sanitized(trust_domain),
        }
    }

    fn audience(token: &str, expected: &[String]) -> Self {
        let found = JwtSvid::parse_insecure(token)
            .map(|svid| {
                let all = svid.audience();
                let shown = all.iter().take(MAX_AUDIENCES);
                let more = (all.len() > MAX_AUDIENCES).then_some("…");
                shown
                    .cloned()
                    .chain(more.map(str::to_owned))
                    .map(Sanitized)
                    .collect()
            })
            .unwrap_or_default();
        Self::Audience {
            expected: expected.to_vec(),
            found,
        }
    }
}

#[cfg(test)]
mod tests {
    use spiffe::{TrustDomain, svid::jwt::JwtAlg};

    use super::*;

    #[test]
    fn answers_by_rfc_6750() {
        let id = SpiffeId::new("spiffe://example.org/client").unwrap();
        for (refusal, status, challenge) in [
            (Refusal::NoCredentials, 401, r#"Bearer realm="spiffe""#),
            (
                Malformed::Repeated.into(),
                400,
                r#"Bearer realm="spiffe", error="invalid_request""#,
            ),
            (
                TokenFault::Expired.into(),
                401,
                r#"Bearer realm="spiffe", error="invalid_token""#,
            ),
            (
                Refusal::NotAllowed(id),
                403,
                r#"Bearer realm="spiffe", error="insufficient_scope""#,
            ),
        ] {
            let response = refusal.response();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()[WWW_AUTHENTICATE], challenge);
            assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        }
    }

    /// J203: a fault of the token is 401, a fault of ours 503, and what is new in the library 401.
    #[test]
    fn j203_every_validation_error_has_a_status() {
        let trust_domain = TrustDomain::new("example.org").unwrap();
        let bad_id = SpiffeId::new("").unwrap_err();
        for (error, status) in [
            (JwtSvidError::InvalidSubject(bad_id), 401),
            (JwtSvidError::MissingKeyId, 401),
            (JwtSvidError::InvalidTyp, 401),
            (JwtSvidError::InvalidExpiration, 401),
            (JwtSvidError::InvalidNotBefore, 401),
            (JwtSvidError::UnsupportedAlgorithm, 401),
            (
                JwtSvidError::BackendUnsupportedAlgorithm(JwtAlg::ES512),
                401,
            ),
            (JwtSvidError::InvalidJwtFormat, 401),
            (JwtSvidError::InvalidBase64, 401),
            (JwtSvidError::BundleNotFound(trust_domain), 401),
            (JwtSvidError::AuthorityNotFound("x".into()), 401),
            (JwtSvidError::InvalidAudience(vec![], vec![]), 401),
            (JwtSvidError::JwtVerifyNotEnabled, 401),
            (JwtSvidError::InvalidAuthorityMetadata("kty"), 401),
            (JwtSvidError::UnsupportedAuthorityPurpose, 401),
            (JwtSvidError::AuthorityVerificationNotPermitted, 401),
            (JwtSvidError::AuthorityCurveMismatch(JwtAlg::ES256), 401),
            (
                JwtSvidError::AuthorityAlgorithmMismatch {
                    authority: JwtAlg::RS256,
                    token: JwtAlg::PS256,
                },
                401,
            ),
            (JwtSvidError::InvalidAuthorityKeyComponent("n"), 401),
            (JwtSvidError::NonCanonicalRsaComponent("n"), 401),
            (JwtSvidError::WeakRsaAuthority(1024), 401),
            (JwtSvidError::BundleSourceError("closed".into()), 503),
            (JwtSvidError::InvalidVerificationTime, 503),
        ] {
            let name = error.to_string();
            let refusal = Refusal::from_validation(error, "a.b.c", &[]);
            assert_eq!(refusal.status(), status, "{name}");
        }
    }

    #[test]
    fn a_server_that_can_not_check_asks_to_come_back() {
        for refusal in [
            Refusal::NoTrust("source is closed".into()),
            Refusal::Busy(9),
        ] {
            let response = refusal.response();
            assert_eq!(response.status(), 503);
            assert!(response.headers().contains_key(RETRY_AFTER));
            assert!(!response.headers().contains_key(WWW_AUTHENTICATE));
        }
    }

    #[test]
    fn the_audience_reads_as_in_go_spiffe() {
        let fault = TokenFault::Audience {
            expected: vec!["spiffe://example.org/server".into()],
            found: vec![Sanitized("spiffe://example.org/some-other-server".into())],
        };
        assert_eq!(
            Refusal::from(fault).to_string(),
            r#"Invalid token: jwtsvid: expected audience in ["spiffe://example.org/server"] (audience=["spiffe://example.org/some-other-server"])"#
        );
    }
}
