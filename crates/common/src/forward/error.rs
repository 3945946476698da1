//! Why a caller gets an answer that is not the upstream's.

use http::{HeaderValue, Response, StatusCode, header::RETRY_AFTER};

use super::rejection::Rejection;
use crate::{
    body::{self, Body},
    outbound,
};

/// A request without an upstream's answer, by whose fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request is not fit to be forwarded.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// It was, and got no answer that is fit to be returned.
    #[error(transparent)]
    Upstream(#[from] outbound::Error),
}

/// When to come back, in seconds, after a 503: identity that was withdrawn does not return sooner.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");

impl Error {
    /// The status that the caller gets.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Rejected(rejection) => rejection.status(),
            Self::Upstream(error) => error.status(),
        }
    }

    /// The answer that the caller gets: a status without details.
    #[must_use]
    pub fn into_response(self) -> Response<Body> {
        let status = self.status();
        match self {
            Self::Rejected(rejection) => rejection.into_response(),
            Self::Upstream(_) => {
                let mut response = body::status(status);
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    response
                        .headers_mut()
                        .insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
                }
                response
            }
        }
    }
}
