//! Refused requests: the reason, which goes to the log, and the answer (RFC 6750 §3).
//!
//! Every bad token gets the same answer, so that the answer says nothing about keys or clocks. The log
//! has the reason, in go-spiffe's words where go-spiffe makes the same distinction.

use std::time::Duration;

use http::{
    HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE},
};
use spiffe::{JwtSvid, JwtSvidError, JwtVerificationErrorKind, SpiffeId};

use crate::sanitize::Sanitized;

/// The reason why a request is refused, by the step that refuses it. Its text is for the log.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The request has no credentials of the Bearer scheme.
    #[error("Malformed header: no bearer token")]
    NoCredentials,
    /// The `Authorization` header breaks the syntax of RFC 6750 §2.1.
    #[error("Malformed header: {0}")]
    Malformed(#[from] Malformed),
    /// The `Authorization` header is longer than 8 KiB.
    #[error("Malformed header: Authorization of more than 8 KiB")]
    TooLong,
    /// The token does not prove a caller.
    #[error("Invalid token: jwtsvid: {0}")]
    InvalidToken(#[from] TokenFault),
    /// The caller is verified, and the policy does not allow it.
    #[error("Not allowed: {} matches no allowed pattern", Sanitized(.0.to_string()))]
    NotAllowed(SpiffeId),
    /// The server has no bundles to verify with, which is not the caller's fault.
    #[error("Cannot check tokens: {0}")]
    NoTrust(Box<dyn std::error::Error + Send + Sync>),
    /// The number of waiting verifications is at its bound.
    #[error("Cannot check tokens: {0} wait to be checked on this core")]
    Busy(usize),
}

/// The fault of an `Authorization` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The request has more than one `Authorization` header.
    #[error("more than one Authorization header")]
    Repeated,
    /// No token follows `Bearer`.
    #[error("no token after Bearer")]
    NoToken,
    /// The text after `Bearer` is not one token.
    #[error("what follows Bearer is not one token")]
    Token,
}

/// The fault of a token. Its text is go-spiffe's where go-spiffe makes the same distinction.
#[derive(Debug, thiserror::Error)]
pub enum TokenFault {
    /// The token is not a JWT in compact serialization, or a field of it has the wrong type.
    #[error("unable to parse JWT token: {0}")]
    Parse(Sanitized<String>),
    /// The `typ` is neither JWT nor JOSE (JWT-SVID §2.3).
    #[error("token header type not equal to either JWT or JOSE")]
    Type,
    /// JWT-SVID §2.1 does not list the `alg`, or the `spiffe` crate cannot verify it.
    #[error("token signature algorithm is not supported")]
    Algorithm,
    /// The token has no `kid`, so that no key can be chosen.
    #[error("token header missing key id")]
    KeyIdMissing,
    /// The `sub` is not one SPIFFE ID in its canonical form (JWT-SVID §3.1).
    #[error("token has an invalid subject claim")]
    Subject,
    /// The subject's trust domain has no bundle.
    #[error("no bundle found for trust domain {0:?}")]
    NoBundle(Sanitized<String>),
    /// The bundle of the subject's trust domain has no JWT authority with this `kid`.
    #[error("no JWT authority {key_id:?} found for trust domain {trust_domain:?}")]
    NoAuthority {
        /// The token's `kid`.
        key_id: Sanitized<String>,
        /// The trust domain of the token's subject.
        trust_domain: Sanitized<String>,
    },
    /// The JWT authority has the wrong type, strength or purpose for this token.
    #[error("JWT authority cannot verify the token: {0}")]
    Authority(Sanitized<String>),
    /// The JWT authority did not make the signature.
    #[error("token signature is invalid")]
    Signature,
    /// The token's `exp` has passed.
    #[error("token has expired")]
    Expired,
    /// The token's `nbf` has not come.
    #[error("token is not valid yet")]
    NotYetValid,
    /// The token lives for longer than the policy accepts.
    #[error("token lifetime is longer than {}", humantime::format_duration(*.0))]
    Lifetime(Duration),
    /// The token is for another audience (JWT-SVID §3.2).
    #[error("expected audience in {expected:?} (audience={found:?})")]
    Audience {
        /// The audiences that this server accepts.
        expected: Vec<String>,
        /// The audiences of the token, at most four of them.
        found: Vec<Sanitized<String>>,
    },
}

/// The most audiences of a token that are logged.
const MAX_AUDIENCES: usize = 4;

impl Refusal {
    /// Converts a validation error, and separates faults of the server from faults of the token.
    pub(super) fn from_validation(error: JwtSvidError, token: &str, audiences: &[String]) -> Self {
        match error {
            JwtSvidError::BundleSourceError(error) => Self::NoTrust(error),
            JwtSvidError::InvalidVerificationTime => Self::NoTrust(error.into()),
            error => Self::InvalidToken(TokenFault::from_validation(error, token, audiences)),
        }
    }

    /// Returns the status of the answer. No other function maps a refusal to a status.
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

    /// Returns the head of the answer: its status, the challenge of RFC 6750 §3, and `Retry-After` for a
    /// fault that passes. The head says no more about the refusal.
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

    /// Returns the challenge. It has no `error` if the request has no credentials (RFC 6750 §3.1).
    fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::NoCredentials => Some(r#"Bearer realm="spiffe""#),
            Self::Malformed(_) => Some(r#"Bearer realm="spiffe", error="invalid_request""#),
            Self::InvalidToken(_) => Some(r#"Bearer realm="spiffe", error="invalid_token""#),
            Self::NotAllowed(_) => Some(r#"Bearer realm="spiffe", error="insufficient_scope""#),
            Self::TooLong | Self::NoTrust(_) | Self::Busy(_) => None,
        }
    }

    /// Returns the seconds after which a retry may succeed. An agent restarts within seconds; a queue
    /// is empty sooner.
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
    fn a_refusal_is_answered_as_rfc_6750_says() {
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

    /// A fault of the token is 401, a fault of the server 503, and an error that is new in the library
    /// is 401.
    #[test]
    fn every_validation_error_has_a_status_j203() {
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
    fn a_server_that_cannot_verify_answers_503_with_retry_after() {
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
    fn the_text_of_a_wrong_audience_is_the_one_of_go_spiffe() {
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
