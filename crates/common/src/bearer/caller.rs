//! The verified caller of a request.

use std::{sync::Arc, time::SystemTime};

use spiffe::SpiffeId;

use super::jwt::{Claims, ClaimsFault, VerifiedToken};

/// The verified caller of a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The SPIFFE ID of the caller: the token's subject (JWT-SVID §3.1), or the ID of the certificate.
    pub id: Arc<SpiffeId>,
    /// The credential that proves the ID.
    pub credential: Credential,
    token: Option<VerifiedToken>,
}

/// The kinds of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A JWT-SVID in the request.
    Token {
        /// The time from which it is not accepted any more: its `exp` plus the accepted clock skew.
        until: SystemTime,
    },
    /// The X.509-SVID of the connection.
    Certificate,
}

/// Compares the ID and the credential. Two tokens that prove the same ID until the same time are
/// equal.
impl PartialEq for Caller {
    fn eq(&self, other: &Self) -> bool {
        (&self.id, self.credential) == (&other.id, other.credential)
    }
}

impl Eq for Caller {}

impl Caller {
    /// Returns a caller without claims, as one with a certificate is. It is for tests of a service.
    #[must_use]
    pub fn new(id: Arc<SpiffeId>, credential: Credential) -> Self {
        Self {
            id,
            credential,
            token: None,
        }
    }

    pub(super) fn with_token(id: Arc<SpiffeId>, until: SystemTime, token: VerifiedToken) -> Self {
        Self {
            id,
            credential: Credential::Token { until },
            token: Some(token),
        }
    }

    /// Reads the claims of the caller's token. Returns `None` for a caller with a certificate, which has no
    /// claims.
    ///
    /// The claims are read at each call, so that a service without a use for them does not pay for them. The
    /// verification used `sub`, `aud`, `exp` and `nbf` only, and the others are checked here. There may be 32
    /// levels, 1,024 values, and 4 KiB in a string.
    ///
    /// # Errors
    /// Fails when a member occurs twice at any level, a limit is exceeded, or a string is not UTF-8. Fails
    /// when `iat`, `jti` or `iss` has another type than RFC 7519 §4.1 says. A policy that needs a claim
    /// refuses the request then.
    ///
    /// # Example
    ///
    /// ```
    /// use common::bearer::{Allow, Authenticator, JwtBundle, JwtBundleSet, Policy};
    /// use http::{Request, header::AUTHORIZATION};
    /// use spiffe::TrustDomain;
    ///
    /// # const JWKS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"W95ll2SKUnPPVpSb-ntfMVnSCysZerMMAYX-wjj8jnk","y":"NYaxVpcfwSlNQ9T3M9e9xkHi3qHyeNuw_qaAOR1eWQw"}]}"#;
    /// # const TOKEN: &str = concat!(
    /// #     "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.eyJzdWIiOiJzcGlmZmU6Ly9leGFtcGxlLm9yZy9jbGllbnQiLCJhdWQ",
    /// #     "iOiJzcGlmZmU6Ly9leGFtcGxlLm9yZy9zZXJ2ZXIiLCJleHAiOjI1MzQwMjMwMDc5OSwiaXNzIjoiaHR0cHM6Ly9le",
    /// #     "GFtcGxlLm9yZyIsInJvbGVzIjpbInJlYWRlciJdfQ.7PddJDq9mW5Fau7xqi7gZgXLmlddPWfofiZv5hZ1_w5a1bKI",
    /// #     "abRe3AKupW6HrJJXWnSMDNsd4mO9QvK6CnNd9A",
    /// # );
    /// let trust_domain = TrustDomain::new("example.org")?;
    /// let bundle = JwtBundle::parse(JWKS.as_bytes())?;
    /// let bundles = JwtBundleSet::from_iter([(trust_domain.clone(), bundle)]);
    /// let audience = "spiffe://example.org/server".to_owned();
    /// let policy = Policy::new(vec![audience], Allow::members_of(trust_domain));
    /// let authenticator = Authenticator::new(bundles, policy);
    ///
    /// let request = Request::get("/").header(AUTHORIZATION, format!("Bearer {TOKEN}"));
    /// let (head, ()) = request.body(())?.into_parts();
    /// let caller = authenticator.authenticate(&head)?.expect("no rule is public");
    /// let claims = caller.claims()?.expect("the caller has a token");
    /// assert_eq!(claims.subject, "spiffe://example.org/client");
    /// assert_eq!(claims.issuer.as_deref(), Some("https://example.org"));
    /// assert_eq!(claims.others["roles"][0], "reader");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn claims(&self) -> Result<Option<Claims>, ClaimsFault> {
        let claims = self.token.as_ref().map(VerifiedToken::claims);
        claims.transpose()
    }
}
