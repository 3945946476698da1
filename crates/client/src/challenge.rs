//! The refusal of a token, as a server says it (RFC 6750 §3.1).

use http::{HeaderMap, HeaderValue, StatusCode, header::WWW_AUTHENTICATE};

/// Returns whether an answer refuses the token as invalid: by 401, or for a gRPC call by UNAUTHENTICATED.
pub(crate) fn refuses_token(status: StatusCode, headers: &HeaderMap) -> bool {
    let grpc_status = headers.get("grpc-status").map(HeaderValue::as_bytes);
    let is_refused = status == StatusCode::UNAUTHORIZED || grpc_status == Some(b"16");
    is_refused && says_invalid_token(headers)
}

/// Returns whether a Bearer challenge has `error="invalid_token"`.
fn says_invalid_token(headers: &HeaderMap) -> bool {
    let challenges = headers.get_all(WWW_AUTHENTICATE).iter();
    challenges
        .filter_map(|value| value.to_str().ok())
        .any(|challenge| {
            let Some((scheme, parameters)) = challenge.trim().split_once(' ') else {
                return false;
            };
            let is_error = |parameter: &str| {
                parameter.split_once('=').is_some_and(|(name, value)| {
                    name.trim().eq_ignore_ascii_case("error")
                        && value.trim().trim_matches('"') == "invalid_token"
                })
            };
            scheme.eq_ignore_ascii_case("Bearer") && parameters.split(',').any(is_error)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_challenge_says_that_the_token_is_invalid() {
        for (values, expected) in [
            (
                &[r#"Bearer realm="spiffe", error="invalid_token""#] as &[_],
                true,
            ),
            (&[r#"bearer error = invalid_token"#], true),
            (
                &[r#"Basic realm="a""#, r#"Bearer error="invalid_token""#],
                true,
            ),
            (&[r#"Bearer realm="spiffe""#], false),
            (&[r#"Bearer error="insufficient_scope""#], false),
            (&[r#"Basic error="invalid_token""#], false),
            (&["Bearer", ""], false),
            (&[], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
            }
            assert_eq!(says_invalid_token(&headers), expected, "{headers:?}");
            assert_eq!(refuses_token(StatusCode::UNAUTHORIZED, &headers), expected);
            assert!(!refuses_token(StatusCode::OK, &headers));
            headers.insert("grpc-status", HeaderValue::from_static("16"));
            assert_eq!(refuses_token(StatusCode::OK, &headers), expected);
        }
    }
}
