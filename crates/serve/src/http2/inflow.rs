//! A body that is received over an HTTP/2 stream.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use h2::{Reason, RecvStream};
use http::{HeaderMap, header::CONTENT_LENGTH};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Bytes;

/// A body that ends where its sender ended it: by END_STREAM, or after its announced length. Any reset
/// before that is an error, also one with NO_ERROR.
#[derive(Debug)]
pub struct Inflow {
    stream: RecvStream,
    /// The rest of the announced length.
    left: Option<u64>,
    has_data: bool,
    keeps_window: bool,
}

impl Inflow {
    /// Returns the body of the message with these header fields. `h2` checks that it has the announced
    /// length.
    pub fn new(stream: RecvStream, headers: &HeaderMap) -> Self {
        let length = headers.get(CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Self {
            stream,
            left: length,
            has_data: true,
            keeps_window: false,
        }
    }

    /// Stops opening the stream's window, because the rest of the body is not needed.
    pub fn keep_window(&mut self) {
        self.keeps_window = true;
    }

    /// Returns the error, or the end of the body if it is complete. A peer that has sent everything may
    /// reset the stream with NO_ERROR to stop the other direction (RFC 9113 §8.1).
    fn end(&self, error: h2::Error) -> Option<Result<Frame<Bytes>, h2::Error>> {
        let is_complete = self.left == Some(0) && error.reason() == Some(Reason::NO_ERROR);
        (!is_complete).then_some(Err(error))
    }

    fn take(&mut self, bytes: Bytes) -> Frame<Bytes> {
        let length = bytes.len();
        if !self.keeps_window {
            // An error would mean that more capacity is released than was used.
            let _ = self.stream.flow_control().release_capacity(length);
        }
        self.left = self.left.map(|left| left.saturating_sub(length as u64));
        Frame::data(bytes)
    }
}

impl Body for Inflow {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.has_data {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(bytes)) => return Poll::Ready(Some(Ok(self.take(bytes)))),
                Some(Err(error)) => return Poll::Ready(self.end(error)),
                None => self.has_data = false,
            }
        }
        Poll::Ready(match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => self.end(error),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
