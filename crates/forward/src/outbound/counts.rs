//! The counts of an upstream.

use common::count::{Counter, Counters, Gauge};
use serve::counts::Protocol;

use super::connection::Opened;

/// The counts of an [`Upstream`](super::Upstream), which all cores share.
#[derive(Debug, Default)]
pub struct Counts {
    /// The number of times that a request was sent, including retries.
    pub requests: Counter,
    /// The number of times that a request was sent again after its connection broke.
    pub retries: Counter,
    /// The number of times that an endpoint was ejected.
    pub ejections: Counter,
    /// The connections that were opened.
    pub connections: Counters<Protocol>,
    /// The requests that wait for room on shared connections.
    pub(super) waiting: Gauge,
}

impl Counts {
    /// Counts a connection that was opened.
    pub(super) fn opened<B>(&self, connection: &Opened<B>) {
        let protocol = Protocol::of(connection.is_http2());
        self.connections.add(protocol, 1);
    }
}
