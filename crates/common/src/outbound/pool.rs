//! The pooled connections to a target, which were verified when they were opened and never after:
//! so they are left for new ones after any change of SVIDs or bundles, and after a while.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http_body::Body;
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::Instant;

use super::connector::Connector;
use crate::tls::Outgoing;

/// Idle connections are dropped sooner than a server of ours would close them (75 s), so that a
/// request is not sent into a connection that is just closing.
const IDLE: Duration = Duration::from_secs(60);

/// Idle connections that are kept; more than these are closed as they become idle.
const MAX_IDLE: usize = 64;

/// How long a verified connection takes new requests: shorter than any SVID's life in practice, so
/// that the target's own may not expire long before it is looked at again.
const LIFE: Duration = Duration::from_secs(5 * 60);

/// HTTP/2 flow-control windows, in bytes. A body that its caller does not read holds back at most
/// its stream's window; the connection's is as large as can be, so that a few such bodies don't
/// hold back all other callers on the same connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = i32::MAX.cast_unsigned();

/// How often a quiet HTTP/2 connection is asked whether the target is still there, and how long the
/// answer may take: one that died without a word would take all requests until it is left.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections to one target.
#[derive(Debug)]
pub(super) struct Pool<B> {
    tls: Outgoing,
    connect_timeout: Duration,
    generation: Mutex<Generation<B>>,
}

/// Connections that were verified by the same identities.
#[derive(Debug)]
struct Generation<B> {
    client: Client<Connector, B>,
    revision: u64,
    opened: Instant,
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static,
{
    pub(super) fn new(tls: Outgoing, connect_timeout: Duration) -> Self {
        let generation = Mutex::new(Generation::new(&tls, connect_timeout));
        Self {
            tls,
            connect_timeout,
            generation,
        }
    }

    /// Whether a new connection could be verified.
    pub(super) fn is_usable(&self) -> bool {
        self.tls.is_usable()
    }

    /// The connections that a new request may use. Those before them end with the requests that they
    /// have.
    pub(super) fn current(&self) -> Client<Connector, B> {
        let mut generation = self.lock();
        if generation.revision != self.tls.revision() || generation.opened.elapsed() >= LIFE {
            *generation = Generation::new(&self.tls, self.connect_timeout);
        }
        generation.client.clone()
    }

    /// Leaves all connections: one of them can't be trusted to end where its messages do.
    pub(super) fn renew(&self) {
        *self.lock() = Generation::new(&self.tls, self.connect_timeout);
    }

    fn lock(&self) -> MutexGuard<'_, Generation<B>> {
        self.generation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Generation<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static,
{
    fn new(tls: &Outgoing, connect_timeout: Duration) -> Self {
        // Before the first handshake: a change meanwhile is then seen by the next request.
        let revision = tls.revision();
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .http2_keep_alive_while_idle(true)
            .build(Connector::new(tls.config().clone(), connect_timeout));
        Self {
            client,
            revision,
            opened: Instant::now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::Limits;

    #[test]
    fn p165_idle_connections_are_dropped_before_a_server_of_ours_would() {
        assert!(IDLE < Limits::new(1).idle_timeout);
    }
}
