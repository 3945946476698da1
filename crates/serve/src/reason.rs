//! The reasons why a connection ends before its first request, or is not accepted, and the statuses of requests
//! with a fault of their own.

use common::reason::Reason;
use http::StatusCode;

common::labels! {
    /// The reason why a connection was not served. Its text is the code, which is the same in the log, the
    /// metrics and `deploy/refusals.md`.
    pub enum ConnectionReason {
        /// The peer's certificate is not accepted, or it has none.
        Certificate = "certificate",
        /// The TLS handshake failed for another reason.
        Tls = "tls",
        /// The peer broke off before the handshake, or its first bytes, were complete.
        HandshakeBroken = "handshake_broken",
        /// The handshake, or the first bytes, took longer than they may.
        HandshakeTimeout = "handshake_timeout",
        /// The handshake made room for a newer one.
        MaxHandshakes = "max_handshakes",
        /// The source has as many connections as it may have.
        MaxConnectionsPerAddress = "max_connections_per_address",
        /// The process stops.
        Stopping = "stopping",
    }
}

/// Returns the status of the answer to a request whose head or body is at fault.
#[must_use]
pub fn status(reason: Reason) -> StatusCode {
    match reason {
        Reason::TargetTooLong => StatusCode::URI_TOO_LONG,
        Reason::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Reason::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Reason::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
        _ => StatusCode::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests {
    use common::label::Label;

    use super::*;

    #[test]
    fn code_of_a_connection_s_reason_has_small_letters_and_underscores_only() {
        let is_plain = |code: &str| code.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_'));
        for reason in ConnectionReason::ALL {
            assert!(is_plain(reason.as_str()), "{reason}");
        }
    }
}
