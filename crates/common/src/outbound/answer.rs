//! A response's body, which its target has to do with until its end.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use hyper::body::{Bytes, Incoming};

use super::connection::InFlight;

/// The body of an answer as it comes.
#[derive(Debug)]
pub struct Answer {
    body: Incoming,
    /// Of the connection that it comes over.
    _in_flight: Option<InFlight>,
}

impl Answer {
    pub(super) fn new(body: Incoming, in_flight: InFlight) -> Self {
        Self {
            body,
            _in_flight: Some(in_flight),
        }
    }

    /// The body alone.
    pub fn into_inner(self) -> Incoming {
        self.body
    }
}

/// An answer that is no client's own.
impl From<Incoming> for Answer {
    fn from(body: Incoming) -> Self {
        Self {
            body,
            _in_flight: None,
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
