//! The deadlines and bounds of a listener, as numbers.

use std::time::Duration;

/// The deadlines and bounds of a listener.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The time for a TLS handshake, from accept.
    pub handshake_timeout: Duration,
    /// The time for a request's header, from its first byte; for the first request from the handshake.
    pub header_timeout: Duration,
    /// The time that a connection without a request is kept.
    pub idle_timeout: Duration,
    /// The time that a body may stand still while it waits for its caller. A request's body must bring
    /// [`MIN_PROGRESS_BYTES`] in it; of a response the next part must be taken.
    pub body_timeout: Duration,
    /// The longest request body, in bytes; absent for any length.
    pub max_body: Option<u64>,
    /// The time that requests in flight have after a stop was requested.
    pub drain_timeout: Duration,
    /// Connections past their handshake, over all cores; more wait for the rest of their handshake's
    /// time.
    pub max_connections: usize,
    /// Connections of one source address (IPv6: of one /64), handshakes included; more are closed.
    pub max_connections_per_source: usize,
    /// TLS handshakes, over all cores. For one more the oldest of the source with the most is closed.
    pub max_handshakes: usize,
    /// Requests in flight, over all cores; more are answered 503.
    pub max_requests: usize,
}

/// The longest request head that is read, in bytes (both HTTP versions).
pub const MAX_HEADER_BYTES: u32 = 32 * 1024;

/// The most header fields of a request.
pub const MAX_HEADERS: usize = 100;

/// The longest request target, in bytes; RFC 9112 §3 asks for 8000 at least.
pub const MAX_TARGET_BYTES: usize = 8 * 1024;

/// Bytes that a request's body must bring in each [`Limits::body_timeout`], unless it ends. A body that
/// comes byte by byte makes no progress.
pub const MIN_PROGRESS_BYTES: u64 = 1024;

/// Streams that one HTTP/2 connection may have open at once.
pub const MAX_STREAMS: u32 = 200;

impl Limits {
    /// Returns limits of `max` connections, handshakes and requests, from any sources, with the default
    /// deadlines.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            max_body: None,
            drain_timeout: Duration::from_secs(30),
            max_connections: max,
            max_connections_per_source: max,
            max_handshakes: max,
            max_requests: max,
        }
    }
}
