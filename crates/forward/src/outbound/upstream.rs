//! The upstream that requests are forwarded to, as the binaries describe it.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    counts::Counts, exclusive_limit::ExclusiveLimit, status::UpstreamStatus, url::UpstreamUrl,
};

/// The servers that requests are forwarded to. Clones have the same state.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The URLs, of which there is at least one. All are used alike.
    pub urls: Vec<UpstreamUrl>,
    /// The times that the parts of a request may take.
    pub timeouts: Timeouts,
    /// The bound on requests with a connection for themselves, which all cores share.
    exclusive: ExclusiveLimit,
    status: UpstreamStatus,
    counts: Arc<Counts>,
}

/// The times that the parts of a request may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// The time for the TCP and TLS handshakes together.
    pub connect: Duration,
    /// The time in which the upstream may take no part of the request's body and not begin to answer.
    /// The time that the body's source takes is not counted, and neither is the response's body.
    pub response: Duration,
    /// The same time for a gRPC call. Its server sends the head of the answer with the first message, so
    /// that a long silence does not mean that the upstream is slow.
    pub call: Duration,
    /// The time that a request may wait for room on the connections to the upstream.
    pub queue: Duration,
}

impl Timeouts {
    /// Returns timeouts that are all this time.
    #[must_use]
    pub fn all(time: Duration) -> Self {
        Self {
            connect: time,
            response: time,
            call: time,
            queue: time,
        }
    }
}

impl Upstream {
    /// Returns an upstream at `urls`. At most `exclusive` requests have a connection for themselves.
    #[must_use]
    pub fn new(urls: Vec<UpstreamUrl>, timeouts: Timeouts, exclusive: ExclusiveLimit) -> Self {
        Self {
            urls,
            timeouts,
            exclusive,
            status: UpstreamStatus::default(),
            counts: Arc::default(),
        }
    }

    /// Returns an upstream at `urls` with the timeouts, the bound and the counts of this one.
    #[must_use]
    pub fn at(&self, urls: Vec<UpstreamUrl>) -> Self {
        Self {
            urls,
            status: UpstreamStatus::default(),
            ..self.clone()
        }
    }

    /// Returns the state of the endpoints on all cores.
    #[must_use]
    pub fn status(&self) -> &UpstreamStatus {
        &self.status
    }

    /// Returns the counts of all cores.
    #[must_use]
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Returns the number of requests that wait for a connection.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.counts.waiting.read() + self.exclusive.waiting() as u64
    }

    /// Returns the bound on requests with a connection for themselves.
    pub(super) fn exclusive(&self) -> &ExclusiveLimit {
        &self.exclusive
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
