//! Decides which requests are sent again. A request that the upstream may have acted on is sent again
//! only if it is safe and has no body.

use http::Method;
use hyper::client::conn::TrySendError;

/// The progress of a request that failed before its answer began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The upstream can't have acted on it, because it was not written, or the upstream said that it
    /// had not processed it.
    Unprocessed,
    /// The upstream may have acted on it.
    Uncertain,
    /// An answer came that is not valid.
    Decided,
}

/// Returns whether a request may be sent any number of times. Its method must be safe (RFC 9110
/// §9.2.1), and it must have no body that could be used up.
pub(super) fn is_repeatable(method: &Method, has_body: bool) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) && !has_body
}

/// Returns whether a request that failed may be sent once more.
pub(super) fn is_allowed(progress: Progress, repeatable: bool) -> bool {
    match progress {
        Progress::Unprocessed => true,
        Progress::Uncertain => repeatable,
        Progress::Decided => false,
    }
}

/// A request that failed on its connection before its answer began.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The connection took no more requests.
    #[error(transparent)]
    Unsent(h2::Error),
    /// The request failed over HTTP/2.
    #[error(transparent)]
    Http2(#[from] h2::Error),
    /// The request failed over HTTP/1.1.
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    /// The request failed over HTTP/1.1 before a byte of it was written.
    #[error(transparent)]
    Unwritten(hyper::Error),
}

impl<M> From<TrySendError<M>> for Failure {
    fn from(mut error: TrySendError<M>) -> Self {
        match error.take_message() {
            Some(_) => Self::Unwritten(error.into_error()),
            None => Self::Http1(error.into_error()),
        }
    }
}

impl Failure {
    /// Returns whether the peer ended a new connection without an error before it took a request.
    pub(super) fn is_drain(&self) -> bool {
        matches!(self, Self::Unsent(error) if error.reason() == Some(h2::Reason::NO_ERROR))
    }

    /// Returns whether the peer cancelled the request.
    pub(super) fn is_cancel(&self) -> bool {
        matches!(self, Self::Http2(error)
            if error.is_remote() && error.is_reset() && error.reason() == Some(h2::Reason::CANCEL))
    }

    /// Returns the progress that the request had made.
    pub(super) fn progress(&self) -> Progress {
        match self {
            Self::Unsent(_) | Self::Unwritten(_) => Progress::Unprocessed,
            Self::Http2(error) if is_unprocessed(error) => Progress::Unprocessed,
            Self::Http1(error) if error.is_parse() => Progress::Decided,
            _ => Progress::Uncertain,
        }
    }
}

/// Returns whether HTTP/2 says that the request was not processed, because the stream is above the
/// last one of GOAWAY, or was refused (RFC 9113 §8.7). Other streams never end by this error.
fn is_unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (error.is_go_away() || refused)
}

#[cfg(test)]
mod tests {
    use super::{Progress::*, *};

    #[test]
    fn only_requests_without_an_effect_are_sent_again() {
        for (method, has_body, progress, allowed) in [
            ("GET", false, Unprocessed, true),
            ("GET", false, Uncertain, true),
            ("GET", false, Decided, false),
            ("HEAD", false, Uncertain, true),
            ("OPTIONS", false, Uncertain, true),
            ("GET", true, Unprocessed, true),
            ("GET", true, Uncertain, false),
            ("POST", false, Unprocessed, true),
            ("POST", false, Uncertain, false),
            ("POST", true, Unprocessed, true),
            ("POST", true, Uncertain, false),
            // These are idempotent but change something, so their sender has to decide.
            ("PUT", false, Uncertain, false),
            ("DELETE", false, Uncertain, false),
            ("TRACE", false, Uncertain, false),
            ("GETS", false, Uncertain, false),
            ("get", false, Uncertain, false),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let repeatable = is_repeatable(&method, has_body);
            assert_eq!(
                is_allowed(progress, repeatable),
                allowed,
                "{method} {has_body} {progress:?}"
            );
        }
    }
}
