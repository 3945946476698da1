//! The token in the request (RFC 6750 §2.1).

use anyhow::Context;
use http::{HeaderValue, Request, header::AUTHORIZATION};
use http_body_util::Full;
use hyper::body::Bytes;
use spiffe::JwtSvid;

/// Returns the request with the token as its bearer token.
pub(crate) fn authorize(
    mut request: Request<Full<Bytes>>,
    token: &JwtSvid,
) -> anyhow::Result<Request<Full<Bytes>>> {
    request.headers_mut().insert(AUTHORIZATION, bearer(token)?);
    Ok(request)
}

/// Returns the value of `Authorization` with the token.
pub(crate) fn bearer(token: &JwtSvid) -> anyhow::Result<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.token()))
        .context("the token is not a header value")?;
    value.set_sensitive(true);
    Ok(value)
}
