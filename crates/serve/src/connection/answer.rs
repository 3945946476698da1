//! The body of an answer, and the time for which it may be silent.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body::{Frame, SizeHint};
use hyper::body::Bytes;
use tokio::time::{Sleep, sleep_until};

use super::request::RequestInFlight;
use crate::body::{Body, BoxError};

/// The body of an answer. A streamed one may be silent for the stream idle timeout, and longer while the
/// request's body moves.
pub(super) struct Answer {
    body: Body,
    in_flight: Arc<RequestInFlight>,
    timeout: Duration,
    /// The timer of the silence, which runs from the first time that the body waits for its source.
    silence: Option<Pin<Box<Sleep>>>,
}

/// The error of a stream that was silent for too long.
#[derive(Debug, thiserror::Error)]
#[error("the stream was silent for {}", humantime::format_duration(*.0))]
struct Silent(Duration);

impl Answer {
    pub(super) fn new(body: Body, in_flight: Arc<RequestInFlight>, timeout: Duration) -> Self {
        Self {
            body,
            in_flight,
            timeout,
            silence: None,
        }
    }

    pub(super) fn in_flight(&self) -> &RequestInFlight {
        &self.in_flight
    }

    /// Returns whether the body is streamed, so that it may take long to end.
    pub(super) fn is_streamed(&self) -> bool {
        self.body.is_streamed()
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self {
            body,
            in_flight,
            timeout,
            silence,
        } = &mut *self;
        let polled = Pin::new(body).poll_frame(cx);
        if polled.is_ready() {
            // The time of a frame matters only to a body that has waited.
            if silence.is_some() {
                in_flight.moves();
            }
            if let Poll::Ready(Some(Ok(frame))) = &polled {
                in_flight.sent(frame.data_ref().map_or(0, Bytes::len));
            }
            return polled;
        }
        let silence = silence.get_or_insert_with(|| {
            in_flight.moves();
            Box::pin(sleep_until(in_flight.silent_at(*timeout)))
        });
        ready!(in_flight.poll_silent(silence, *timeout, cx));
        Poll::Ready(Some(Err(Silent(*timeout).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
