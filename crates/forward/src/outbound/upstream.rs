//! The upstream that requests are forwarded to, as the binaries describe it.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    counts::Counts, exclusive_limit::ExclusiveLimit, status::UpstreamStatus, url::UpstreamUrl,
};

/// The servers that requests are forwarded to, and how long they may take.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The URLs, of which there is at least one. All are used alike.
    pub urls: Vec<UpstreamUrl>,
    /// The time for the TCP and TLS handshakes together.
    pub connect_timeout: Duration,
    /// The time in which the upstream may take no part of the request's body and not begin to answer.
    /// The time that the body's source takes is not counted, and neither is the response's body.
    pub response_timeout: Duration,
    /// The same time for a gRPC call. Its server sends the head of the answer with the first message, so
    /// that a long silence does not mean that the upstream is slow.
    pub call_timeout: Duration,
    /// The time that a request may wait for room on the connections to the upstream.
    pub queue_timeout: Duration,
    /// The bound on requests with a connection for themselves, which all cores share.
    pub exclusive: ExclusiveLimit,
    /// The state of the endpoints on all cores.
    pub status: UpstreamStatus,
    /// The counts of all cores.
    pub counts: Arc<Counts>,
}

impl Upstream {
    /// Returns the number of requests that wait for a connection.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.counts.waiting.read() + self.exclusive.waiting() as u64
    }
}

/// Writes the URLs, with commas between them.
impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, url) in self.urls.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{url}")?;
        }
        Ok(())
    }
}
