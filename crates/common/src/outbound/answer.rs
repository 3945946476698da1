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

use super::{connection::InFlight, http2::During};
use crate::{body::BodyError, http2::Inflow};

/// The time that an answer without a body, by its status, has to end its stream.
const EMPTY_END: Duration = Duration::from_secs(1);

/// The body of an answer as it comes. It ends where the upstream ended it; whatever else ends it is
/// an error.
#[derive(Debug)]
pub struct Answer {
    body: Wire,
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
            body,
            in_flight: Some(in_flight),
        }
    }

    /// Gives up a body that is empty by the answer's status. Its stream may still have to end: reset
    /// at once, it would count for a flood of resets.
    pub(crate) fn discard(mut self) {
        if self.is_end_stream() {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(timeout(EMPTY_END, async move {
                while let Some(Ok(_)) = self.frame().await {}
                drop(self.in_flight);
            }));
        }
    }
}

/// An answer that is no client's own.
impl From<Incoming> for Answer {
    fn from(body: Incoming) -> Self {
        Self {
            body: Wire::Http1(body),
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
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
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
