//! The counts of a listener.

use std::time::Duration;

use common::{
    count::{Counter, Counters, Histogram},
    reason::Reason,
};
use http::StatusCode;
use tokio_rustls::rustls::ProtocolVersion;

use crate::{reason::ConnectionReason, statuses::Statuses};

common::labels! {
    /// The security of a connection.
    pub enum Handshake {
        /// TLS 1.3.
        Tls13 = "TLSv1.3",
        /// TLS 1.2.
        Tls12 = "TLSv1.2",
        /// There is no TLS.
        Plaintext = "none",
    }
}

common::labels! {
    /// The protocol of a connection.
    pub enum Protocol {
        /// HTTP/1.1.
        Http1 = "http/1.1",
        /// HTTP/2.
        Http2 = "h2",
    }
}

/// The bounds of the histograms of requests, in microseconds.
const REQUEST: &[u64] = &[
    500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// The counts of a listener, which all cores share.
#[derive(Debug)]
pub struct Counts {
    /// The connections that were accepted within the bounds.
    pub connections: Counter,
    /// The connections that ended before HTTP began.
    pub unserved: Counters<ConnectionReason>,
    /// The connections on which HTTP began, by their security.
    pub handshakes: Counters<Handshake>,
    /// The connections on which HTTP began, by their protocol.
    pub protocols: Counters<Protocol>,
    /// The requests whose answers have begun, by the status.
    pub answered: Statuses,
    /// The requests that ended before their answers began.
    pub unanswered: Counter,
    /// The requests that this process has answered instead of serving them.
    pub refused: Counters<Reason>,
    /// The time from the end of a request's head to the head of its answer.
    pub first_byte: Histogram,
    /// The time from the end of a request's head to the end of its answer.
    pub duration: Histogram,
    /// The bytes that callers sent, inside TLS.
    pub received: Counter,
    /// The bytes that callers got, inside TLS.
    pub sent: Counter,
}

impl Counts {
    /// Counts the head of an answer.
    pub(crate) fn answer(&self, status: StatusCode, reason: Option<Reason>, after: Duration) {
        self.answered.add(status);
        self.first_byte.add(after);
        if let Some(reason) = reason {
            self.refused.add(reason, 1);
        }
    }

    /// Counts the end of a request.
    pub(crate) fn end(&self, is_answered: bool, after: Duration) {
        self.duration.add(after);
        if !is_answered {
            self.unanswered.add(1);
        }
    }
}

impl Handshake {
    /// Returns the label of a connection with TLS.
    pub(crate) fn of(version: Option<ProtocolVersion>) -> Self {
        match version {
            Some(ProtocolVersion::TLSv1_2) => Self::Tls12,
            _ => Self::Tls13,
        }
    }
}

impl Protocol {
    /// Returns the label of a connection.
    #[must_use]
    pub fn of(is_http2: bool) -> Self {
        if is_http2 { Self::Http2 } else { Self::Http1 }
    }
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            connections: Counter::default(),
            unserved: Counters::default(),
            handshakes: Counters::default(),
            protocols: Counters::default(),
            answered: Statuses::default(),
            unanswered: Counter::default(),
            refused: Counters::default(),
            first_byte: Histogram::new(REQUEST),
            duration: Histogram::new(REQUEST),
            received: Counter::default(),
            sent: Counter::default(),
        }
    }
}
