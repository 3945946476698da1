//! Offers two request bodies: one as HTTP/2 has them, and one that records what is read of it.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use hyper::body::Bytes;

/// Records what was read of a body.
#[derive(Default)]
pub(super) struct Record {
    pub(super) data: Vec<u8>,
    pub(super) ended: bool,
    pub(super) broken: bool,
}

/// Holds the body of an HTTP/2 request. Its length is unknown until its end.
pub(super) struct Http2Body(pub(super) Vec<u8>);

/// Records what is read of `body`.
pub(super) struct Recorded<B: Body + Unpin> {
    pub(super) body: B,
    pub(super) record: Arc<Mutex<Record>>,
}

impl Body for Http2Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = std::mem::take(&mut self.0);
        Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Recorded<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let mut record = self
            .record
            .lock()
            .expect("no code panics while it holds the lock");
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                record
                    .data
                    .extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                // Nothing follows trailers, and hyper does not ask.
                record.ended |= frame.is_trailers();
            }
            Poll::Ready(Some(Err(_))) => record.broken = true,
            Poll::Ready(None) => record.ended = true,
            Poll::Pending => {}
        }
        drop(record);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: Body + Unpin> Drop for Recorded<B> {
    fn drop(&mut self) {
        let ended = self.body.is_end_stream();
        if let Ok(mut record) = self.record.lock() {
            record.ended |= ended;
        }
    }
}
