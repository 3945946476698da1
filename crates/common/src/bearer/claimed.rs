//! The caller that a token claims, which nothing has verified.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use http::HeaderMap;
use serde::Deserialize;
use spiffe::SpiffeId;

use super::header::bearer_token;

/// The claim that names the caller.
#[derive(Deserialize)]
struct Subject {
    sub: String,
}

/// Returns the SPIFFE ID that the bearer token of a request claims. Nothing verifies it, so that it is for
/// operators only.
#[must_use]
pub fn claimed_id(headers: &HeaderMap) -> Option<SpiffeId> {
    let (_, token) = bearer_token(headers).ok()?;
    let claims = token.split('.').nth(1)?;
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?;
    let subject: Subject = serde_json::from_slice(&claims).ok()?;
    SpiffeId::new(&subject.sub).ok()
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;

    use super::*;

    fn claimed(claims: &str) -> Option<String> {
        let claims = BASE64_URL_SAFE_NO_PAD.encode(claims);
        let mut headers = HeaderMap::new();
        let token = format!("Bearer e30.{claims}.c2ln").parse();
        headers.insert(AUTHORIZATION, token.unwrap());
        claimed_id(&headers).map(|id| id.to_string())
    }

    #[test]
    fn id_is_that_of_the_subject_if_it_is_a_spiffe_id() {
        let id = "spiffe://a/b";
        assert_eq!(claimed(r#"{"sub":"spiffe://a/b"}"#).as_deref(), Some(id));
        for claims in ["", "[]", "{}", r#"{"sub":"me"}"#, r#"{"sub":7}"#] {
            assert_eq!(claimed(claims), None, "{claims}");
        }
        assert_eq!(claimed_id(&HeaderMap::new()), None);
    }
}
