//! A response's body, which its target has to do with until its end.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use tokio::{runtime::Handle, time::timeout};

use super::{http2::During, in_flight::InFlight};
use crate::{body::BodyError, http2::Inflow};

/// The time in which a stream that nobody reads any more may end by itself, and the most that is read
/// of it meanwhile. Reset at once it would count for a flood of resets: Envoy ends a connection when
/// half of its streams live for less than a second, and all callers share it.
const ABANDONED: Duration = Duration::from_secs(1);
const ABANDONED_BYTES: usize = 256 * 1024;

/// The body of an answer as it comes. It ends where the upstream ended it; whatever else ends it is
/// an error.
#[derive(Debug)]
pub struct Answer {
    /// Gone once the answer is dropped.
    body: Option<Wire>,
    /// Of the connection that it comes over.
    in_flight: Option<InFlight>,
}

/// The body as its connection has it.
#[derive(Debug)]
pub(super) enum Wire {
    Http1(Incoming),
    Http2 {
        body: Inflow,
        _during: Option<During>,
    },
}

impl Answer {
    pub(super) fn new(body: Wire, in_flight: InFlight) -> Self {
        Self {
            body: Some(body),
            in_flight: Some(in_flight),
        }
    }
}

impl Answer {
    /// Returns an empty body in place of this one.
    pub(super) fn into_empty(self) -> Self {
        Self {
            body: None,
            in_flight: None,
        }
    }
}

/// Lets the stream of a shared connection end by itself, if it does so soon.
impl Drop for Answer {
    fn drop(&mut self) {
        let Some(mut body @ Wire::Http2 { _during: None, .. }) = self.body.take() else {
            return;
        };
        let (false, Ok(runtime)) = (body.is_end_stream(), Handle::try_current()) else {
            return;
        };
        let in_flight = self.in_flight.take();
        if in_flight.as_ref().is_some_and(InFlight::is_evicted) {
            return;
        }
        runtime.spawn(timeout(ABANDONED, async move {
            let mut left = ABANDONED_BYTES;
            while left > 0 {
                let Some(Ok(frame)) = body.frame().await else {
                    return;
                };
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            }
            std::future::pending::<()>().await;
            drop(in_flight);
        }));
    }
}

/// An answer that is no client's own.
impl From<Incoming> for Answer {
    fn from(body: Incoming) -> Self {
        Self {
            body: Some(Wire::Http1(body)),
            in_flight: None,
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.get_mut().body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Body for Wire {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Http2 { body, .. } => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2 { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2 { body, .. } => body.size_hint(),
        }
    }
}
