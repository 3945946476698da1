//! Opens connections to one endpoint after the other until there is one for a request.
//!
//! `HttpConnector` of `hyper-util` races too: a second attempt begins after 300 ms, at the addresses of the other
//! version of IP. It does not serve because its race ends with TCP. An endpoint that accepts and then fails the
//! handshake, or the check of its SPIFFE ID, would win it. A race here ends with a verified connection, and tries
//! ejected endpoints last.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::sleep;

use super::{
    connection::Connection,
    connections::Connections,
    connector::Fault,
    endpoints::Failed,
    error::Error,
    prepared::{Need, RequestBody, Speech},
};

/// The time that an endpoint has to connect before another one is tried as well (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);

/// The time that the last endpoint has to connect when all others have failed. It is probably down, or
/// it has just restarted and is busy with the handshakes of all its clients.
const LAST_CHANCE: Duration = Duration::from_secs(2);

/// The number of new connections that may be lost to other requests, or close at once, before a
/// request fails.
const MAX_LOST: usize = 20;

/// The attempts to open a connection for one request.
pub(super) struct Race<'a, B> {
    connections: &'a Arc<Connections<B>>,
    need: Need,
    failed: Option<&'a Failed>,
    /// The endpoints that were tried.
    tried: Vec<u64>,
    /// The attempts under way, each with its endpoint.
    opening: FuturesUnordered<BoxFuture<'static, (u64, Result<(), Error>)>>,
    failure: Option<Error>,
    /// The connections that other requests took.
    lost: usize,
    /// Set once an ejected endpoint is tried, after which no other is.
    is_last: bool,
}

impl<'a, B: RequestBody> Race<'a, B> {
    pub(super) fn new(
        connections: &'a Arc<Connections<B>>,
        need: Need,
        failed: Option<&'a Failed>,
    ) -> Self {
        Self {
            connections,
            need,
            failed,
            tried: Vec::new(),
            opening: FuturesUnordered::new(),
            failure: None,
            lost: 0,
            is_last: false,
        }
    }

    /// Waits for a connection. Returns `None` if all are full and there may be no more.
    ///
    /// The last endpoint to be tried may be an ejected one. That is better than to fail, and if the
    /// request does fail, its error has the actual cause.
    pub(super) async fn run(&mut self) -> Result<Option<Connection<B>>, Error> {
        self.connections.resolved().await?;
        loop {
            if !self.open_next() && self.opening.is_empty() {
                return match self.failure.take() {
                    Some(failure) => Err(failure),
                    None if self.connections.is_full(self.need) => Ok(None),
                    None => Err(self.closed()),
                };
            }
            let head_start = if self.is_last {
                LAST_CHANCE
            } else {
                HEAD_START
            };
            tokio::select! {
                Some((id, opened)) = self.opening.next() => self.note(id, opened),
                () = sleep(head_start) => {
                    if self.is_last && self.opening.len() == 1
                        && let Some(failure) = self.failure.take()
                    {
                        return Err(failure);
                    }
                }
            }
            if let Some(connection) = self.connections.take(self.need, self.failed) {
                return Ok(Some(connection));
            }
        }
    }

    /// Opens a connection to the next endpoint. Returns whether there was one.
    fn open_next(&mut self) -> bool {
        if self.is_last {
            return false;
        }
        let next = self
            .connections
            .open_next(self.need, self.failed, &self.tried);
        let Some((candidate, opening)) = next else {
            return false;
        };
        self.is_last = candidate.is_ejected;
        self.tried.push(candidate.id);
        let opened = opening.map(move |opened| (candidate.id, opened));
        self.opening.push(opened.boxed());
        true
    }

    /// Takes note of an attempt that ended. An endpoint is tried again if other requests took its new
    /// connection, or it was closed at once.
    fn note(&mut self, id: u64, opened: Result<(), Error>) {
        match opened {
            Err(error) => self.failure = Some(error),
            Ok(()) if self.connections.is_full(self.need) => self.forget(id),
            Ok(()) if self.lost < MAX_LOST => {
                self.lost += 1;
                self.forget(id);
            }
            Ok(()) => {}
        }
    }

    fn forget(&mut self, id: u64) {
        self.tried.retain(|tried| *tried != id);
    }

    /// Returns the error after the deadline.
    pub(super) fn timed_out(&self) -> Error {
        let timeout = Fault::Timeout(self.connections.connect_timeout());
        let at = self.connections.at_first_of(&self.tried);
        Error::ConnectTimeout(at, timeout.to_string())
    }

    fn closed(&self) -> Error {
        let at = self.connections.at_first_of(&self.tried);
        let speech = self.need.speech();
        let reason = match speech {
            _ if self.connections.lock().speak(speech) => "it closes new connections",
            Speech::Http1 => "it does not speak HTTP/1.1, which a WebSocket needs",
            _ => "it does not speak HTTP/2, which gRPC needs",
        };
        Error::Failed(at, reason.to_owned())
    }
}
