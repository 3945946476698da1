//! A request's body, with a deadline for its progress while it waits for the caller.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use common::reason::Reason;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Bytes;
use tokio::time::{Sleep, sleep};

use super::{
    request::{RequestInFlight, UNKNOWN},
    unread::{OpenBody, Unread},
};
use crate::{
    body::{Wire, WireError},
    limits::{Limits, MIN_PROGRESS_BYTES},
    shares::Eviction,
};

/// A request's body as the caller sends it, within the listener's bounds.
///
/// If it is dropped before its end, a short rest is read in the background. The connection can then
/// continue, and the caller sees its answer.
#[derive(Debug)]
pub struct Received {
    body: Option<Wire>,
    in_flight: Arc<RequestInFlight>,
    open: Option<OpenBody>,
    timeout: Duration,
    kind: BodyKind,
    /// The deadline for progress, which starts when the body waits for its caller. It is removed once
    /// [`MIN_PROGRESS_BYTES`] have come.
    patience: Option<Pin<Box<Sleep>>>,
    is_waiting: bool,
    progress: u64,
    max: u64,
    total: u64,
    /// The time from which no bytes are passed on, if there is one.
    until: Option<SystemTime>,
}

/// The kind of a request's body, on which its bounds depend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyKind {
    /// A body that comes as fast as its caller can send it.
    Plain,
    /// The messages of a gRPC call, which may be silent.
    Call,
    /// The caller's side of a WebSocket, which may be silent and has any length.
    Socket,
}

/// The reason why a request's body broke off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The body is longer than [`Limits::max_body`], which the field has.
    #[error("the request body is longer than {0} bytes")]
    TooLong(u64),
    /// The body made no progress in [`Limits::body_timeout`], or a stream was silent for
    /// [`Limits::stream_idle_timeout`]; the field has the time.
    #[error("the request body stood still for {}", humantime::format_duration(*.0))]
    Stalled(Duration),
    /// Bytes came after the end that [`Received::end_at`] has set.
    #[error("the request body has outlasted its credential")]
    Over,
    /// The caller's connection or its framing failed.
    #[error("{0}")]
    Broken(#[from] WireError),
}

impl ReceiveError {
    /// Returns the reason, whose code is for the log and the metrics.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::TooLong(_) => Reason::BodyTooLarge,
            Self::Stalled(_) => Reason::BodyTimeout,
            Self::Over => Reason::CredentialExpired,
            Self::Broken(_) => Reason::RequestBody,
        }
    }
}

impl Received {
    pub(super) fn new(
        body: Wire,
        limits: &Limits,
        kind: BodyKind,
        in_flight: &Arc<RequestInFlight>,
    ) -> Self {
        let open = (!body.is_end_stream()).then(|| OpenBody::new(in_flight.activity()));
        in_flight.set_body_left(left(&body));
        Self {
            body: Some(body),
            in_flight: Arc::clone(in_flight),
            open,
            timeout: match kind {
                BodyKind::Plain => limits.body_timeout,
                BodyKind::Call | BodyKind::Socket => limits.stream_idle_timeout,
            },
            kind,
            patience: None,
            is_waiting: false,
            progress: 0,
            max: match kind {
                BodyKind::Socket => u64::MAX,
                BodyKind::Plain | BodyKind::Call => limits.max_body.unwrap_or(u64::MAX),
            },
            total: 0,
            until: None,
        }
    }

    /// Breaks the body off at the first bytes that come at this time or later.
    pub fn end_at(&mut self, until: SystemTime) {
        self.until = Some(until);
    }

    /// Returns the eviction that tells the request to make room for one of another source.
    #[must_use]
    pub fn eviction(&self) -> Arc<Eviction> {
        Arc::clone(self.in_flight.eviction())
    }

    fn count(&mut self, bytes: usize) -> Result<(), ReceiveError> {
        if self.until.is_some_and(|until| until <= SystemTime::now()) {
            return Err(ReceiveError::Over);
        }
        let bytes = bytes as u64;
        self.total += bytes;
        self.in_flight.received(self.total);
        if self.total > self.max {
            self.in_flight.set_fault(Reason::BodyTooLarge);
            return Err(ReceiveError::TooLong(self.max));
        }
        if let Some(open) = &mut self.open {
            open.note(self.total);
        }
        if self.kind != BodyKind::Plain {
            self.in_flight.moves();
            return Ok(());
        }
        self.progress += bytes;
        if self.progress >= MIN_PROGRESS_BYTES {
            (self.progress, self.patience) = (0, None);
        }
        Ok(())
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<ReceiveError> {
        let timeout = self.timeout;
        let Self {
            patience,
            in_flight,
            kind,
            ..
        } = self;
        let patience = patience.get_or_insert_with(|| {
            in_flight.moves();
            Box::pin(sleep(timeout))
        });
        match kind {
            BodyKind::Plain => ready!(patience.as_mut().poll(cx)),
            BodyKind::Call | BodyKind::Socket => {
                ready!(in_flight.poll_silent(patience, timeout, cx));
            }
        }
        self.in_flight.set_fault(Reason::BodyTimeout);
        // The body is dropped because the caller sends no more of it.
        self.body = None;
        Poll::Ready(ReceiveError::Stalled(timeout))
    }

    fn note_waiting(&mut self, waits: bool) {
        if self.is_waiting != waits {
            self.is_waiting = waits;
            self.in_flight.waits_for_body(waits);
        }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = ReceiveError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReceiveError>>> {
        self.in_flight.asks_for_body();
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(body).poll_frame(cx);
        self.note_waiting(polled.is_pending());
        let Poll::Ready(polled) = polled else {
            return self.poll_stalled(cx).map(|stalled| Some(Err(stalled)));
        };
        Poll::Ready(match polled {
            Some(Ok(frame)) => {
                let left = self.body.as_ref().map_or(0, left);
                self.in_flight.set_body_left(left);
                let counted = self.count(frame.data_ref().map_or(0, Bytes::len));
                Some(counted.map(|()| frame))
            }
            Some(Err(error)) => {
                self.body = None;
                Some(Err(error.into()))
            }
            None => {
                self.in_flight.set_body_left(0);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

/// Returns the number of bytes that are still to come, or [`UNKNOWN`].
fn left(body: &Wire) -> u64 {
    if body.is_end_stream() {
        0
    } else {
        body.size_hint().exact().unwrap_or(UNKNOWN)
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.note_waiting(false);
        self.in_flight.set_body_left(0);
        let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) else {
            return;
        };
        // No further request follows what is left of a tunnel.
        if matches!(body, Wire::Upgraded(_)) {
            return;
        }
        let rest = Unread::new(body, self.open.take());
        if let Some(rest) = self.in_flight.leave(rest) {
            rest.read_in_background();
        }
    }
}
