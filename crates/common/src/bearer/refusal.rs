//! Refused requests: the reason, which goes to the log, and the answer (RFC 6750 §3).
//!
//! Every bad token gets the same answer, so that the answer says nothing about keys or clocks. The log
//! has the reason, in go-spiffe's words where go-spiffe makes the same distinction.

use http::{
    HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE},
};

use super::{allow::RefusedBy, caller::Caller, fault::TokenFault};
use crate::{reason::Reason, sanitize::Sanitized};

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
    #[error("Not allowed: {} {by}", Sanitized(caller.id.to_string()))]
    NotAllowed {
        /// The verified caller.
        caller: Caller,
        /// The part of the policy that does not allow it.
        by: RefusedBy,
    },
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

impl Refusal {
    /// Returns the status of the answer. No other function maps a refusal to a status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoCredentials | Self::InvalidToken(_) => StatusCode::UNAUTHORIZED,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::NotAllowed { .. } => StatusCode::FORBIDDEN,
            Self::NoTrust(_) | Self::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Returns the reason, whose code is for the log and the metrics.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::NoCredentials => Reason::NoToken,
            Self::Malformed(_) => Reason::Malformed,
            Self::TooLong => Reason::TooLong,
            Self::InvalidToken(fault) => fault.reason(),
            Self::NotAllowed { .. } => Reason::NotAllowed,
            Self::NoTrust(_) => Reason::NoBundles,
            Self::Busy(_) => Reason::Busy,
        }
    }

    /// Returns the caller that was verified before the request was refused.
    #[must_use]
    pub fn verified_caller(&self) -> Option<&Caller> {
        match self {
            Self::NotAllowed { caller, .. } => Some(caller),
            _ => None,
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
            Self::NotAllowed { .. } => Some(r#"Bearer realm="spiffe", error="insufficient_scope""#),
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

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use spiffe::{SpiffeId, TrustDomain};

    use super::{
        super::{caller::Credential, rules::RuleName},
        *,
    };

    fn caller(id: &str) -> Caller {
        let id = Arc::new(SpiffeId::new(id).unwrap());
        Caller::new(id, Credential::Certificate)
    }

    #[test]
    fn a_refusal_is_answered_as_rfc_6750_says() {
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
                Refusal::NotAllowed {
                    caller: caller("spiffe://example.org/client"),
                    by: RefusedBy::Patterns,
                },
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

    #[test]
    fn a_caller_that_is_not_allowed_is_logged_with_the_rule() {
        for (by, text) in [
            (
                RefusedBy::Patterns,
                "Not allowed: spiffe://partner.example/caller matches no allowed pattern",
            ),
            (
                RefusedBy::MembersOf(TrustDomain::new("example.org").unwrap()),
                "Not allowed: spiffe://partner.example/caller is not a workload of the trust domain \
                 example.org, and only its workloads are allowed",
            ),
            (
                RefusedBy::Named(RuleName::given("orders")),
                "Not allowed: spiffe://partner.example/caller is not a caller of rule \"orders\"",
            ),
            (
                RefusedBy::NoRule,
                "Not allowed: spiffe://partner.example/caller sent a request that no rule matches",
            ),
        ] {
            let caller = caller("spiffe://partner.example/caller");
            assert_eq!(Refusal::NotAllowed { caller, by }.to_string(), text);
        }
    }

    #[test]
    fn each_fault_of_a_token_is_401_and_each_of_the_server_503_j203() {
        let text = || Sanitized(String::from("x"));
        for fault in [
            TokenFault::Parse(text()),
            TokenFault::Type,
            TokenFault::Algorithm,
            TokenFault::KeyIdMissing,
            TokenFault::Subject,
            TokenFault::NoBundle(text()),
            TokenFault::NoAuthority {
                key_id: text(),
                trust_domain: text(),
            },
            TokenFault::Authority(text()),
            TokenFault::Signature,
            TokenFault::Expired,
            TokenFault::NotYetValid,
            TokenFault::Lifetime(Duration::from_secs(1)),
            TokenFault::audience([].into_iter(), &[], None),
        ] {
            let refusal = Refusal::from(fault);
            assert_eq!(refusal.status(), 401, "{refusal}");
        }
        assert_eq!(Refusal::NoTrust("closed".into()).status(), 503);
        assert_eq!(Refusal::Busy(9).status(), 503);
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
    fn the_text_of_a_wrong_audience_is_the_one_of_go_spiffe_and_the_rule() {
        let expected = ["spiffe://example.org/server".to_owned()];
        for (rule, end) in [
            (None, ""),
            (Some(RuleName::in_line(7)), " by the rule in line 7"),
        ] {
            let found = ["spiffe://example.org/some-other-server"].into_iter();
            let fault = TokenFault::audience(found, &expected, rule);
            let text = r#"Invalid token: jwtsvid: expected audience in ["spiffe://example.org/server"] (audience=["spiffe://example.org/some-other-server"])"#;
            assert_eq!(Refusal::from(fault).to_string(), format!("{text}{end}"));
        }
    }
}
