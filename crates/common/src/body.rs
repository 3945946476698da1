//! The one body type that all answers have, so that every part of a server can give one.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use http_body::{Frame, SizeHint};
use hyper::body::Bytes;

use crate::{outbound::Answer, serve::Received};

/// The body of an answer: known from the start, or streamed from an upstream.
#[derive(Debug)]
pub enum Body {
    /// All of it; `None` once sent, or when there is nothing.
    Full(Option<Bytes>),
    /// What an upstream sends, frame by frame as it comes, without trailers.
    Upstream(Answer),
}

/// Why an answer's body broke off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The upstream's connection or framing failed, over HTTP/1.1.
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    /// The upstream reset the stream, or its connection failed.
    #[error(transparent)]
    Http2(#[from] h2::Error),
    /// It was given up for a request of another source.
    #[error("given up for a request of another source")]
    Evicted,
}

/// What a peer sends, frame by frame as it comes, without trailers: they are fields too, and reach
/// the other side past every check of fields (RFC 9110 §6.5.1).
#[derive(Debug)]
pub struct WithoutTrailers<B = Received>(pub B);

/// An answer whose body is the text of its status, such as `404 Not Found`.
#[must_use]
pub fn status(status: StatusCode) -> Response<Body> {
    text(status, format!("{status}\n"))
}

/// An answer in plain text.
#[must_use]
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::Full(Some(text.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Upstream(body) => poll_data(body, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Upstream(body) => body.size_hint(),
        }
    }
}

impl<B: http_body::Body<Data = Bytes> + Unpin> http_body::Body for WithoutTrailers<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        poll_data(&mut self.get_mut().0, cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// The next frame that is no trailers.
fn poll_data<E>(
    body: &mut (impl http_body::Body<Data = Bytes, Error = E> + Unpin),
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, E>>> {
    loop {
        match ready!(http_body::Body::poll_frame(Pin::new(&mut *body), cx)) {
            Some(Ok(frame)) if frame.is_trailers() => {}
            frame => return Poll::Ready(frame),
        }
    }
}
