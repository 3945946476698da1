//! The deadlines and bounds of a listener, as numbers.

use std::time::Duration;

/// The deadlines and bounds of a listener.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The time for a TLS handshake, from accept.
    pub handshake_timeout: Duration,
    /// The time for a request's header, from its first byte, or from the handshake for the first request.
    pub header_timeout: Duration,
    /// The time that a connection without a request is kept open.
    pub idle_timeout: Duration,
    /// The time for progress of a body that waits for its caller. [`MIN_PROGRESS_BYTES`] of a request's
    /// body must come in it, or the caller must read the next part of an answer.
    pub body_timeout: Duration,
    /// The time for which a stream may be silent in both directions. A stream is an answer that is sent
    /// as it comes, the body of a gRPC call, or a WebSocket.
    pub stream_idle_timeout: Duration,
    /// The longest request body, in bytes; `None` accepts any length.
    pub max_body: Option<u64>,
    /// The time for requests in flight to finish after a stop was requested, or after a connection has
    /// reached its age or lost its identity.
    pub drain_timeout: Duration,
    /// The longest time for which a connection accepts requests; `None` sets no bound. Each connection
    /// has up to a tenth less, so that those that were opened together do not end together.
    pub max_connection_age: Option<Duration>,
    /// The largest number of connections past their handshake, over all cores. More of them wait for the
    /// rest of their handshake's time.
    pub max_connections: usize,
    /// The largest number of connections of one source, with those in their handshake. More of them are
    /// closed. A source is an IPv4 address or the /64 of an IPv6 address.
    pub max_connections_per_source: usize,
    /// The largest number of TLS handshakes, over all cores. For one more, the oldest of the source with
    /// the most is closed.
    pub max_handshakes: usize,
    /// The in-flight limit: the largest number of requests in flight, over all cores. For one more, the oldest
    /// request of a source with more is ended. If there is none, the new request is answered 503.
    pub max_requests: usize,
}

/// The longest accepted request head, in bytes, in both HTTP versions.
pub const MAX_HEADER_BYTES: u32 = 32 * 1024;

/// The largest accepted number of header fields of a request.
pub const MAX_HEADERS: usize = 100;

/// The longest accepted request target, in bytes; RFC 9112 §3 asks for at least 8000.
pub const MAX_TARGET_BYTES: usize = 8 * 1024;

/// The bytes of a body that must come in each [`Limits::body_timeout`], unless the body ends. Over HTTP/2, they
/// are also the bytes that the peer must read in that time. Single bytes are therefore not progress.
pub const MIN_PROGRESS_BYTES: u64 = 1024;

/// The largest number of open streams of one HTTP/2 connection.
pub const MAX_STREAMS: u32 = 200;

impl Limits {
    /// Returns the default deadlines with limits of `max` connections, handshakes and requests, which one
    /// source may use alone.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            stream_idle_timeout: Duration::from_secs(3600),
            max_body: None,
            drain_timeout: Duration::from_secs(30),
            max_connection_age: None,
            max_connections: max,
            max_connections_per_source: max,
            max_handshakes: max,
            max_requests: max,
        }
    }
}
