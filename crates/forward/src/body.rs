//! The form in which bodies cross the proxy.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http_body::{Body, Frame, SizeHint};
use hyper::body::Bytes;
use serve::{Received, body::BoxError};

use crate::trailers::TrailerRules;

/// A body whose trailers have only fields that may cross.
#[derive(Debug)]
pub struct CleanBody<B = Received> {
    body: B,
    rules: TrailerRules,
}

impl<B> CleanBody<B> {
    /// Returns `body` with those of its trailers that `rules` allow.
    pub(crate) fn new(body: B, rules: TrailerRules) -> Self {
        Self { body, rules }
    }
}

impl<B> Body for CleanBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { body, rules } = self.get_mut();
        loop {
            let frame = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
            };
            let trailers = match frame.into_trailers() {
                Ok(trailers) => trailers,
                Err(data) => return Poll::Ready(Some(Ok(data))),
            };
            match rules.cleaned(trailers) {
                Ok(Some(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
