//! The fault of a request's own body.

use common::{cause, reason::Reason, sanitize::Sanitized};
use http::StatusCode;
use serve::ReceiveError;

/// The fault of a request's own body.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub struct BodyFault {
    text: String,
    pub(super) reason: Reason,
}

impl BodyFault {
    /// Returns the fault that the source of a body had.
    pub(super) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let received = cause::find::<ReceiveError>(error);
        Self {
            text: Sanitized(cause::chain(error)).to_string(),
            reason: received.map_or(Reason::RequestBody, ReceiveError::reason),
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        serve::reason::status(self.reason)
    }
}
