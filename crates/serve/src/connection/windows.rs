//! Flow-control windows of HTTP/2 connections.
//!
//! A window is the number of body bytes that a caller may send before the handler reads. A stream carries
//! at most one window in a round trip, so that distant callers need wide windows. The bytes of all windows
//! may be held in memory unread. A connection therefore has wide windows only while it carries a large
//! body. The number of such connections is bounded in all and per source. `scripts/bench.sh --rows far`
//! measures uploads through both.

use std::{net::IpAddr, sync::Arc};

use h2::server::Connection;
use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::activity::Activity;
use crate::shares::{Eviction, OnFull, Permit, Share, Shares};

/// The windows of a stream and of its connection, in bytes. The stream's is smaller, so that a few bodies
/// that nobody reads do not delay others on the connection.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) stream: u32,
    pub(super) connection: u32,
}

pub(super) const NARROW: Size = Size {
    stream: 128 * 1024,
    connection: 1024 * 1024,
};
const WIDE: Size = Size {
    stream: 2 * 1024 * 1024,
    connection: 4 * 1024 * 1024,
};

/// The connections that may have wide windows at once, in all and per source. At most 256 MiB and 64 MiB
/// are held unread.
const WIDE_CONNECTIONS: usize = 64;
const WIDE_CONNECTIONS_PER_SOURCE: usize = 16;

/// The bytes after which a body counts as large.
pub(super) const LARGE: u64 = 64 * 1024;

/// The bound on connections with wide windows. Clones share its counts.
#[derive(Clone, Debug)]
pub(crate) struct WideWindows(Shares);

impl WideWindows {
    /// Returns the windows of a new connection from `source`.
    pub(crate) fn of(&self, source: IpAddr) -> Windows {
        Windows {
            share: self.0.of(source),
            wide: None,
            is_set: true,
        }
    }
}

impl Default for WideWindows {
    fn default() -> Self {
        Self(Shares::new(
            WIDE_CONNECTIONS,
            WIDE_CONNECTIONS_PER_SOURCE,
            OnFull::Refuse,
        ))
    }
}

/// The windows of one connection.
#[derive(Debug)]
pub(crate) struct Windows {
    share: Arc<Share>,
    /// The permit for wide windows, while they are wide.
    wide: Option<(Permit, Arc<Eviction>)>,
    /// Set when the windows were announced to the peer.
    is_set: bool,
}

impl Windows {
    /// Sets the windows that the connection's bodies need, if the bound permits them.
    pub(super) fn adapt<I>(&mut self, connection: &mut Connection<I, Bytes>, activity: &Activity)
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let wants_wide = activity.has_large_body();
        let may_stay =
            |(_, eviction): &(Permit, Arc<Eviction>)| wants_wide && !eviction.is_evicted();
        if self.wide.as_ref().is_some_and(|wide| !may_stay(wide)) {
            self.wide = None;
            self.is_set = false;
        } else if wants_wide && self.wide.is_none() {
            let eviction = Arc::default();
            let held = self.share.enter(&eviction);
            self.wide = held.ok().map(|held| (held, eviction));
            self.is_set = self.wide.is_none();
        }
        if !self.is_set {
            let size = if self.wide.is_some() { WIDE } else { NARROW };
            connection.set_target_window_size(size.connection);
            // The change fails while the peer has not acknowledged the last one. A later call repeats it.
            self.is_set = connection.set_initial_window_size(size.stream).is_ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll};

    use h2::{client, server};
    use tokio::io::DuplexStream;

    use super::*;
    use crate::in_flight::InFlightLimit;

    /// A connection of one source.
    struct Served {
        server: Connection<DuplexStream, Bytes>,
        windows: Windows,
    }

    impl Served {
        async fn new(wide: &WideWindows, source: &str) -> Self {
            let (own, other) = tokio::io::duplex(64 * 1024);
            let (server, caller) = tokio::join!(server::handshake(own), client::handshake(other));
            let (sender, connection) = caller.unwrap();
            tokio::spawn(async move {
                let _ = connection.await;
                drop(sender);
            });
            Self {
                server: server.unwrap(),
                windows: wide.of(source.parse().unwrap()),
            }
        }

        /// Serves until the windows were announced to the peer, and returns whether they are wide.
        async fn is_wide(&mut self, activity: &Activity) -> bool {
            poll_fn(|cx| {
                // Reads an acknowledgement of the last change.
                let _ = self.server.poll_accept(cx);
                self.windows.adapt(&mut self.server, activity);
                let _ = self.server.poll_accept(cx);
                if self.windows.is_set {
                    Poll::Ready(self.windows.wide.is_some())
                } else {
                    Poll::Pending
                }
            })
            .await
        }
    }

    #[tokio::test]
    async fn windows_are_wide_for_a_large_body_within_the_bounds() {
        let activity = Activity::new(
            InFlightLimit::new(9).of("::1".parse().unwrap()),
            None,
            Arc::default(),
        );
        let wide = WideWindows(Shares::new(2, 1, OnFull::Refuse));
        let mut first = Served::new(&wide, "::1").await;
        let mut second = Served::new(&wide, "::1").await;
        let mut other = Served::new(&wide, "::2").await;
        assert!(!first.is_wide(&activity).await);
        activity.body_begins();
        assert!(!first.is_wide(&activity).await, "the body may be small");
        activity.body_is_large();
        assert!(first.is_wide(&activity).await);
        assert!(
            !second.is_wide(&activity).await,
            "its source is at its bound"
        );
        assert!(other.is_wide(&activity).await);
        activity.body_ends(true);
        assert!(!first.is_wide(&activity).await, "the body has ended");
    }
}
