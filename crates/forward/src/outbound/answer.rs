//! A response's body, which its target has to do with until its end.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use serve::body::{Wire, WireError};
use tokio::{runtime::Handle, time::timeout};

use super::{http2::During, in_flight::InFlight};

/// The time in which a stream that nobody reads any more may end by itself, and the most that is read
/// of it meanwhile. Reset at once it would count for a flood of resets: Envoy ends a connection when
/// half of its streams live for less than a second, and all callers share it.
const ABANDONED: Duration = Duration::from_secs(1);
const ABANDONED_BYTES: usize = 256 * 1024;

/// The body of an answer as it comes. It ends where the upstream ended it; whatever else ends it is
/// an error.
#[derive(Debug)]
pub struct Answer {
    /// `None` once the answer is dropped.
    body: Option<Arriving>,
    /// Counts the request on its connection.
    in_flight: Option<InFlight>,
}

/// A body as it arrives, and what has to go on meanwhile.
#[derive(Debug)]
pub(super) struct Arriving {
    pub(super) body: Wire,
    /// Present on a connection of the request's own.
    pub(super) during: Option<During>,
}

impl Answer {
    pub(super) fn new(body: Arriving, in_flight: InFlight) -> Self {
        Self {
            body: Some(body),
            in_flight: Some(in_flight),
        }
    }

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
        let Some(Arriving {
            body: mut body @ Wire::Http2(_),
            during: None,
        }) = self.body.take()
        else {
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

impl From<Incoming> for Arriving {
    fn from(body: Incoming) -> Self {
        Self {
            body: Wire::Http1(body),
            during: None,
        }
    }
}

/// An answer that does not come from a [`Client`](super::Client).
impl From<Incoming> for Answer {
    fn from(body: Incoming) -> Self {
        Self {
            body: Some(body.into()),
            in_flight: None,
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = WireError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        match &mut self.get_mut().body {
            Some(arriving) => Pin::new(&mut arriving.body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body
            .as_ref()
            .is_none_or(|arriving| arriving.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.as_ref().map(|arriving| arriving.body.size_hint());
        hint.unwrap_or_default()
    }
}
