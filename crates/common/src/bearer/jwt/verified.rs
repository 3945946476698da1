//! The claims of a verified token, for a policy that uses more than its subject.

use std::fmt;

use http::HeaderValue;
use serde_json::{Map, Value};

use super::{claims, json, token};
use crate::{bearer::TokenFault, sanitize::Sanitized};

/// A verified token, in the field value that it came in. It shares the octets of that value.
#[derive(Clone)]
pub(in crate::bearer) struct VerifiedToken {
    field: HeaderValue,
    /// The byte at which the token begins.
    start: usize,
}

/// The claims of a verified token (RFC 7519 §4.1). Its issuer vouches for all of them.
///
/// The verification used `sub`, `aud`, `exp` and `nbf`. The other claims mean what the issuer and the
/// service agreed on.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Claims {
    /// `sub`: the SPIFFE ID of the caller.
    pub subject: String,
    /// `aud`: one or more, of which one is the service.
    pub audiences: Vec<String>,
    /// `exp`, in seconds since 1970.
    pub expiry: i64,
    /// `nbf`, in seconds since 1970.
    pub not_before: Option<f64>,
    /// `iat`, in seconds since 1970.
    pub issued_at: Option<f64>,
    /// `jti`: the token's own ID.
    pub token_id: Option<String>,
    /// `iss`. No JWT-SVID is accepted or refused because of it (JWT-SVID §3).
    pub issuer: Option<String>,
    /// The other claims, by name.
    pub others: Map<String, Value>,
}

/// The reason why the claims of a verified token cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the claims cannot be read: {0}")]
pub struct ClaimsFault(Sanitized<String>);

impl VerifiedToken {
    /// Returns the token at the end of a field value.
    pub(in crate::bearer) fn at_end_of(field: &HeaderValue, token: &str) -> Self {
        let mut field = field.clone();
        field.set_sensitive(true);
        let start = field.len().saturating_sub(token.len());
        Self { field, start }
    }

    /// Reads the claims.
    ///
    /// # Errors
    /// Fails when a claim has another type than RFC 7519 §4.1 says, a member occurs twice, or the claims
    /// exceed a limit.
    pub(in crate::bearer) fn claims(&self) -> Result<Claims, ClaimsFault> {
        let text = self.field.to_str().map_err(ClaimsFault::of)?;
        let payload = token::payload(text.get(self.start..).unwrap_or_default())?;
        let verified = claims::Claims::read(&payload)?;
        let others = json::object(&payload).map_err(ClaimsFault::of)?;
        Claims::new(verified, others)
    }
}

/// Writes nothing of the token.
impl fmt::Debug for VerifiedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedToken").finish_non_exhaustive()
    }
}

impl Claims {
    /// Returns the claims that were `verified`, and the others from `all`.
    fn new(verified: claims::Claims, mut all: Map<String, Value>) -> Result<Self, ClaimsFault> {
        for name in ["sub", "aud", "exp", "nbf"] {
            all.remove(name);
        }
        let issued_at = all
            .remove("iat")
            .map(|time| time.as_f64().ok_or("iat is not a number"));
        Ok(Self {
            subject: verified.subject,
            audiences: verified.audiences,
            expiry: verified.expiry,
            not_before: verified.not_before,
            issued_at: issued_at.transpose().map_err(ClaimsFault::of)?,
            token_id: text(&mut all, "jti")?,
            issuer: text(&mut all, "iss")?,
            others: all,
        })
    }
}

/// Removes a claim, which must be a string if it is present.
fn text(claims: &mut Map<String, Value>, name: &str) -> Result<Option<String>, ClaimsFault> {
    match claims.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(ClaimsFault::of(format_args!("{name} is not a string"))),
    }
}

impl ClaimsFault {
    fn of(reason: impl fmt::Display) -> Self {
        Self(Sanitized(reason.to_string()))
    }
}

impl From<TokenFault> for ClaimsFault {
    fn from(fault: TokenFault) -> Self {
        Self::of(fault)
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::json;

    use super::*;

    const REGISTERED: &str = r#""sub":"spiffe://example.org/client","aud":"x","exp":253402300799"#;

    /// Returns the token with these claims, and with those that every token has.
    fn token(claims: &str) -> VerifiedToken {
        let claims = format!("{{{REGISTERED}{claims}}}");
        let parts = [r#"{"alg":"ES256"}"#, &claims, "s"].map(|part| URL_SAFE_NO_PAD.encode(part));
        let token = parts.join(".");
        let field = HeaderValue::try_from(format!("Bearer  {token}")).unwrap();
        VerifiedToken::at_end_of(&field, &token)
    }

    #[test]
    fn registered_claims_are_typed_and_the_others_are_json_j206() {
        let bare = token("").claims().unwrap();
        assert_eq!(bare.subject, "spiffe://example.org/client");
        assert_eq!(
            (bare.audiences, bare.expiry),
            (vec!["x".to_owned()], 253_402_300_799)
        );
        assert_eq!((bare.not_before, bare.issued_at), (None, None));
        assert_eq!(
            (bare.token_id, bare.issuer, bare.others),
            (None, None, Map::new())
        );

        let all = token(
            r#","nbf":1,"iat":2.5,"jti":"7","iss":"https://x","roles":["a",{"b":null}],"n":-1"#,
        );
        let all = all.claims().unwrap();
        assert_eq!((all.not_before, all.issued_at), (Some(1.0), Some(2.5)));
        assert_eq!(all.token_id.as_deref(), Some("7"));
        assert_eq!(all.issuer.as_deref(), Some("https://x"));
        let others = json!({ "roles": ["a", { "b": null }], "n": -1 });
        assert_eq!(Value::Object(all.others), others);
    }

    #[test]
    fn claims_that_are_not_well_formed_are_not_read_j205() {
        for (claims, fault) in [
            (r#","iss":1"#, "iss is not a string"),
            (r#","jti":null"#, "jti is not a string"),
            (r#","iat":"1""#, "iat is not a number"),
            (r#","a":1,"a":1"#, "a is there twice"),
            (r#","iat":1,"iat":1"#, "iat is there twice"),
            (r#","a":{"b":1,"b":1}"#, "b is there twice"),
            (r#","a":"\ud800""#, "unexpected end of hex escape"),
            (
                &format!(r#","a":{}{}"#, "[".repeat(32), "]".repeat(32)),
                "more than 32 levels",
            ),
        ] {
            let found = token(claims).claims().unwrap_err().to_string();
            let fault = format!("the claims cannot be read: {fault}");
            assert!(found.starts_with(&fault), "{claims}: {found}");
        }
    }

    #[test]
    fn debug_output_has_nothing_of_a_verified_token() {
        assert_eq!(format!("{:?}", token("")), "VerifiedToken { .. }");
    }
}
