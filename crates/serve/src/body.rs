//! The bodies of messages.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use common::reason::Reason;
use http::{
    HeaderValue, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};

use crate::{http2::Inflow, upgraded::Upgraded};

/// The error of any body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer, which is either complete from the start or streamed frame by frame.
pub struct Body(Kind);

enum Kind {
    /// The whole body; `None` if it is empty or was sent.
    Full(Option<Bytes>),
    Streamed(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError> + Send>>),
}

/// A message's body as its connection carries it. It ends only where the peer ended it.
#[derive(Debug)]
pub enum Wire {
    /// A body over HTTP/1.1.
    Http1(Incoming),
    /// A body over HTTP/2.
    Http2(Inflow),
    /// The bytes of a connection that was upgraded from HTTP/1.1.
    Upgraded(Upgraded),
}

/// The error of a body that broke off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The HTTP/1.1 connection or its framing failed.
    #[error("{0}")]
    Http1(#[from] hyper::Error),
    /// The peer reset the HTTP/2 stream, or its connection failed.
    #[error("{0}")]
    Http2(#[from] h2::Error),
    /// The upgraded connection failed.
    #[error("{0}")]
    Upgraded(#[from] io::Error),
}

/// The error of a body that this process ends early. Over HTTP/2 the stream is cancelled.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Cancelled(pub &'static str);

/// The methods that may be served, for answers that must or may name them (RFC 9110 §15.5.6, §9.3.7).
pub const ALLOWED: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// Returns an answer whose body is the text of its status, such as `404 Not Found`.
#[must_use]
pub fn status(status: StatusCode) -> Response<Body> {
    text(status, format!("{status}\n"))
}

/// Marks an answer of this process as a refusal for `reason`, so that it is counted as one.
#[must_use]
pub fn because<B>(reason: Reason, mut response: Response<B>) -> Response<B> {
    response.extensions_mut().insert(reason);
    response
}

/// Returns the answer to a request whose method is not served here.
#[must_use]
pub(crate) fn method_not_allowed() -> Response<Body> {
    let mut response = status(StatusCode::METHOD_NOT_ALLOWED);
    response.headers_mut().insert(ALLOW, ALLOWED);
    response
}

/// Returns an answer in plain text.
#[must_use]
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

impl Body {
    /// Returns an empty body.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Kind::Full(None))
    }

    /// Returns a body that is complete from the start.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self(Kind::Full(Some(bytes.into())))
    }

    /// Returns a body that is sent frame by frame as it comes.
    #[must_use]
    pub fn streamed<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        Self(Kind::Streamed(Box::pin(body.map_err(Into::into))))
    }

    /// Returns whether the body is streamed, so that it may take long to end.
    pub(crate) fn is_streamed(&self) -> bool {
        matches!(self.0, Kind::Streamed(_))
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Kind::Full(bytes) => return f.debug_tuple("Full").field(bytes).finish(),
            Kind::Streamed(_) => "Streamed",
        };
        f.write_str(kind)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().0 {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Streamed(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Streamed(body) => body.size_hint(),
        }
    }
}

impl http_body::Body for Wire {
    type Data = Bytes;
    type Error = WireError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Upgraded(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::Upgraded(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::Upgraded(body) => body.size_hint(),
        }
    }
}
