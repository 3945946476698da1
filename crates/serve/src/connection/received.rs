//! A request's body, which must keep moving while it is the caller that it waits for.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::FutureExt;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Bytes;
use tokio::{
    runtime::Handle,
    time::{Sleep, sleep, timeout},
};

use super::{
    activity::Activity,
    flight::{Flight, UNKNOWN},
    windows::LARGE,
};
use crate::{
    body::{Wire, WireError},
    limits::{Limits, MIN_PROGRESS_BYTES},
    shares::Eviction,
};

/// A request's body as the caller sends it, within the listener's bounds.
///
/// Dropped before its end, the rest is read in the background, as far as that is worth while, so that
/// the connection can go on and the caller sees its answer.
#[derive(Debug)]
pub struct Received {
    body: Option<Wire>,
    flight: Arc<Flight>,
    open: Option<Open>,
    timeout: Duration,
    /// Runs while the caller is waited for; gone once [`MIN_PROGRESS_BYTES`] have come.
    patience: Option<Pin<Box<Sleep>>>,
    is_waiting: bool,
    progress: u64,
    max: u64,
    total: u64,
}

/// Why a request's body broke off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// More than the listener takes ([`Limits::max_body`]).
    #[error("the request body is longer than {0} bytes")]
    TooLong(u64),
    /// Too little in [`Limits::body_timeout`].
    #[error("the request body stood still for {}", humantime::format_duration(*.0))]
    Stalled(Duration),
    /// The caller broke off, by its connection or by its framing.
    #[error(transparent)]
    Broken(#[from] WireError),
}

/// Counts a body as one of its connection's that is still being read.
#[derive(Debug)]
struct Open {
    activity: Arc<Activity>,
    is_large: bool,
}

/// The most of a body's rest that is read after its answer, and for how long: what Go's server reads
/// too (`maxPostHandlerReadBytes`).
pub(super) const DRAIN_BYTES: u64 = 256 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// The time in which the rest of a body of unknown length has to come, so that an HTTP/1.1 connection
/// can go on after its answer.
const DRAIN_BRIEF: Duration = Duration::from_millis(2);

impl Received {
    pub(super) fn new(body: Wire, limits: &Limits, flight: &Arc<Flight>) -> Self {
        let open = (!body.is_end_stream()).then(|| Open::on(flight.activity()));
        flight.set_body_left(left(&body));
        Self {
            body: Some(body),
            flight: Arc::clone(flight),
            open,
            timeout: limits.body_timeout,
            patience: None,
            is_waiting: false,
            progress: 0,
            max: limits.max_body.unwrap_or(u64::MAX),
            total: 0,
        }
    }

    /// Returns the eviction that tells its request to make room for one of another source.
    #[must_use]
    pub fn eviction(&self) -> Arc<Eviction> {
        Arc::clone(self.flight.eviction())
    }

    fn count(&mut self, bytes: usize) -> Result<(), ReceiveError> {
        let bytes = bytes as u64;
        self.total += bytes;
        if self.total > self.max {
            self.flight.set_fault(StatusCode::PAYLOAD_TOO_LARGE);
            return Err(ReceiveError::TooLong(self.max));
        }
        if let Some(open) = &mut self.open {
            open.note(self.total);
        }
        self.progress += bytes;
        if self.progress >= MIN_PROGRESS_BYTES {
            (self.progress, self.patience) = (0, None);
        }
        Ok(())
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<ReceiveError> {
        let timeout = self.timeout;
        let patience = self
            .patience
            .get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(patience.as_mut().poll(cx));
        self.flight.set_fault(StatusCode::REQUEST_TIMEOUT);
        // No more of it is to be expected.
        self.body = None;
        Poll::Ready(ReceiveError::Stalled(timeout))
    }

    fn note_waiting(&mut self, waits: bool) {
        if self.is_waiting != waits {
            self.is_waiting = waits;
            self.flight.waits_for_body(waits);
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
        self.flight.asks_for_body();
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
                self.flight.set_body_left(left);
                let counted = self.count(frame.data_ref().map_or(0, Bytes::len));
                Some(counted.map(|()| frame))
            }
            Some(Err(error)) => {
                self.body = None;
                Some(Err(error.into()))
            }
            None => {
                self.flight.set_body_left(0);
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

/// Returns the bytes that are to come, or [`UNKNOWN`].
fn left(body: &Wire) -> u64 {
    match body.is_end_stream() {
        true => 0,
        false => body.size_hint().exact().unwrap_or(UNKNOWN),
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.note_waiting(false);
        self.flight.set_body_left(0);
        let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) else {
            return;
        };
        let rest = Unread {
            body,
            _open: self.open.take(),
        };
        if let Some(rest) = self.flight.leave(rest) {
            rest.read_in_background();
        }
    }
}

/// The rest of a request's body that nobody has asked for.
#[derive(Debug)]
pub(super) struct Unread {
    body: Wire,
    _open: Option<Open>,
}

impl Unread {
    /// Reads what comes at once, and returns whether the connection can go on: the rest is over, or it
    /// is known to be short and is read in the background.
    pub(super) async fn settles(self) -> bool {
        if self.body.size_hint().lower() > DRAIN_BYTES {
            return false;
        }
        let is_short = self.body.size_hint().exact().is_some();
        let mut reading = Box::pin(self.read());
        match timeout(DRAIN_BRIEF, reading.as_mut()).await {
            Ok(is_over) => is_over,
            Err(_) if is_short => {
                tokio::spawn(timeout(DRAIN_TIME, reading));
                true
            }
            Err(_) => false,
        }
    }

    /// Reads it in the background, as far as it is worth while.
    pub(super) fn read_in_background(self) {
        if self.body.size_hint().lower() > DRAIN_BYTES {
            return;
        }
        let mut reading = Box::pin(timeout(DRAIN_TIME, self.read()));
        // Often all of it is there already.
        if reading.as_mut().now_or_never().is_none()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(reading);
        }
    }

    /// Reads it, as far as it is worth while; returns whether that is to its end.
    async fn read(mut self) -> bool {
        let mut left = DRAIN_BYTES;
        while let Some(frame) = self.body.frame().await {
            let Ok(frame) = frame else {
                return false;
            };
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(bytes as u64) {
                Some(rest) => left = rest,
                None => return false,
            }
        }
        true
    }
}

impl Open {
    fn on(activity: &Arc<Activity>) -> Self {
        activity.body_begins();
        Self {
            activity: Arc::clone(activity),
            is_large: false,
        }
    }

    fn note(&mut self, total: u64) {
        if !self.is_large && total > LARGE {
            self.is_large = true;
            self.activity.body_is_large();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.activity.body_ends(self.is_large);
    }
}
