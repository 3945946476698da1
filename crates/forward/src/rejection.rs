//! The reason why a request is not forwarded, and the answer that it gets instead.

use common::reason::Reason;
use http::{Request, Response, StatusCode, header::ALLOW};
use serve::{
    body::{self, ALLOWED, Body},
    last::LastAnswer,
};

/// The reason why a request is answered here and not forwarded. Its texts hold nothing that the caller
/// sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The request could mean one thing here and another upstream.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// The body has a coding that is not implemented (RFC 9112 §6.1).
    #[error("a transfer coding other than chunked")]
    TransferCoding,
    /// The request has an expectation that can't be met (RFC 9110 §10.1.1).
    #[error("an expectation other than 100-continue")]
    Expectation,
    /// CONNECT would be a tunnel, and TRACE would echo the credential (RFC 9110 §9.3.6, §9.3.8).
    #[error("a method that is never forwarded")]
    Method,
    /// The request was here before, or at many proxies of this product (RFC 9110 §7.6.3).
    #[error("the request goes in a circle: does the upstream lead back to this proxy?")]
    Loop,
    /// The path is not among those that are forwarded.
    #[error("not found: a path that is not forwarded")]
    NotFound,
    /// The request asks this hop and none after it: `OPTIONS *`, `Max-Forwards: 0`.
    #[error("a question to this hop, answered by it")]
    OwnHop,
}

/// A request that is answered here and not forwarded. It is kept for the log line about it.
#[derive(Debug)]
pub struct Rejected<B> {
    /// The request as it came.
    pub request: Request<B>,
    /// The reason why it is not forwarded.
    pub rejection: Rejection,
}

impl Rejection {
    /// Returns the status of the answer.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::OwnHop => StatusCode::NO_CONTENT,
        }
    }

    /// Returns the reason, whose code is for the log and the metrics.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::Malformed(_) => Reason::MalformedRequest,
            Self::TransferCoding => Reason::TransferCoding,
            Self::Expectation => Reason::Expectation,
            Self::Method => Reason::Method,
            Self::Loop => Reason::Loop,
            Self::NotFound => Reason::NotFound,
            Self::OwnHop => Reason::OwnHop,
        }
    }

    /// Returns the answer. It is the last one of its connection if the request was not understood,
    /// because the next bytes may not be a request.
    #[must_use]
    pub fn into_response(self) -> Response<Body> {
        let mut response = match self {
            Self::OwnHop => Response::new(Body::empty()),
            _ => body::status(self.status()),
        };
        *response.status_mut() = self.status();
        if matches!(self, Self::Method | Self::OwnHop) {
            response.headers_mut().insert(ALLOW, ALLOWED);
        }
        if !matches!(self, Self::OwnHop | Self::NotFound) {
            response.extensions_mut().insert(LastAnswer);
        }
        body::because(self.reason(), response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_has_its_status_and_ends_the_connection_unless_it_was_understood() {
        for (rejection, status, closes, allow) in [
            (Rejection::Malformed("x"), 400, true, false),
            (Rejection::TransferCoding, 501, true, false),
            (Rejection::Expectation, 417, true, false),
            (Rejection::Method, 405, true, true),
            (Rejection::Loop, 508, true, false),
            (Rejection::NotFound, 404, false, false),
            (Rejection::OwnHop, 204, false, true),
        ] {
            let response = rejection.into_response();
            assert_eq!(response.status(), status);
            let headers = response.headers();
            let is_last = response.extensions().get::<LastAnswer>().is_some();
            assert_eq!(is_last, closes, "{rejection}");
            assert_eq!(headers.contains_key(ALLOW), allow, "{rejection}");
        }
    }
}
