//! The error of a forwarded request without the upstream's answer, and what its caller gets instead.

use common::reason::Reason;
use http::{HeaderValue, Response, StatusCode, header::RETRY_AFTER};
use serve::body::{self, Body};

use crate::outbound;

/// A request that was fit to be forwarded, and got no answer that is fit to be returned.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(#[from] outbound::Error);

/// The seconds after which a caller may try again after a 503. A withdrawn identity returns no
/// sooner.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");

impl Error {
    /// Returns the status that the caller gets.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status()
    }

    /// Returns the reason, whose code is for the log and the metrics.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.0.reason()
    }

    /// Returns the answer that the caller gets: a status without details.
    #[must_use]
    pub fn into_response(self) -> Response<Body> {
        let status = self.status();
        let mut response = body::status(status);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        body::because(self.reason(), response)
    }
}
