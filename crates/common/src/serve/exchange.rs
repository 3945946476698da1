//! One request and its response on a connection: the bounds on its head, and the bodies, which must
//! keep moving while it is the caller that they wait for.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, RETRY_AFTER},
};
use http_body::{Body, Frame, SizeHint};
use hyper::body::{Bytes, Incoming};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};

use super::{
    Limits, MAX_HEADER_BYTES, MAX_HEADERS, MAX_TARGET_BYTES, MIN_PROGRESS_BYTES,
    activity::{InFlight, Reader},
};
use crate::body;

/// A request's body as the caller sends it, within the listener's bounds.
#[derive(Debug)]
pub struct Received {
    body: Incoming,
    timeout: Duration,
    /// Runs while the caller is waited for; gone once [`MIN_PROGRESS_BYTES`] have come.
    patience: Option<Pin<Box<Sleep>>>,
    progress: u64,
    max: u64,
    total: u64,
    fault: Fault,
}

/// Why a request's body broke off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// More than the listener takes ([`Limits::max_body`]).
    #[error("the request body is longer than {0} bytes")]
    TooLong(u64),
    /// Too little in [`Limits::body_timeout`].
    #[error("the request body stood still for {}", humantime::format_duration(*.0))]
    Stalled(Duration),
    /// The connection's or the framing's fault.
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// What a broken request body has to be answered with, whatever its handler made of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Fault(Arc<AtomicU16>);

impl Fault {
    fn set(&self, status: StatusCode) {
        self.0.store(status.as_u16(), Relaxed);
    }

    /// The answer, if the body is at fault.
    pub(super) fn answer(&self, version: Version) -> Option<Response<body::Body>> {
        let status = StatusCode::from_u16(self.0.load(Relaxed)).ok()?;
        Some(refusal(status, version))
    }
}

/// The answer to a request whose head is over a bound, before any handler sees it.
pub(super) fn over_bounds(
    request: &Request<Incoming>,
    limits: &Limits,
) -> Option<Response<body::Body>> {
    let uri = request.uri();
    let target = uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    let authority = uri
        .authority()
        .map_or(0, |authority| authority.as_str().len());
    let status = if target + authority > MAX_TARGET_BYTES {
        StatusCode::URI_TOO_LONG
    } else if request.headers().len() > MAX_HEADERS
        || target + fields_bytes(request.headers()) > MAX_HEADER_BYTES as usize
    {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    } else if limits
        .max_body
        .is_some_and(|max| request.body().size_hint().lower() > max)
    {
        StatusCode::PAYLOAD_TOO_LARGE
    } else {
        return None;
    };
    Some(refusal(status, request.version()))
}

/// As on the wire of HTTP/1.1: hyper's own bound is of a buffer that may grow some way over it.
fn fields_bytes(fields: &HeaderMap) -> usize {
    let each = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    fields.iter().map(each).sum()
}

/// An answer after which an HTTP/1.1 connection closes: the rest of the body may never come.
fn refusal(status: StatusCode, version: Version) -> Response<body::Body> {
    let mut response = body::status(status);
    last(&mut response, version);
    response
}

/// The answer to a request that is one more than the process takes at once. Without a body it costs
/// its connection nothing: a new one would cost more than the request.
pub(super) fn overloaded(request: &Request<Incoming>) -> Response<body::Body> {
    let mut response = body::status(StatusCode::SERVICE_UNAVAILABLE);
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    if !request.body().is_end_stream() {
        last(&mut response, request.version());
    }
    response
}

/// Makes an answer the last one of its HTTP/1.1 connection (HTTP/2 has GOAWAY).
pub(super) fn last(response: &mut Response<body::Body>, version: Version) {
    if version < Version::HTTP_2 {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
}

/// The answer to HEAD: what GET would be answered with, without its body (RFC 9110 §9.3.2). hyper
/// sees to it over HTTP/1.1, and not over HTTP/2.
pub(super) fn without_body(mut response: Response<body::Body>) -> Response<body::Body> {
    if let Some(length) = response
        .body()
        .size_hint()
        .exact()
        .filter(|&length| length > 0)
    {
        let length = HeaderValue::from(length);
        response.headers_mut().insert(CONTENT_LENGTH, length);
    }
    response.map(|_| body::Body::Full(None))
}

impl Received {
    pub(super) fn new(body: Incoming, limits: &Limits, fault: Fault) -> Self {
        Self {
            body,
            timeout: limits.body_timeout,
            patience: None,
            progress: 0,
            max: limits.max_body.unwrap_or(u64::MAX),
            total: 0,
            fault,
        }
    }

    fn count(&mut self, bytes: usize) -> Result<(), ReceiveError> {
        let bytes = bytes as u64;
        self.total += bytes;
        if self.total > self.max {
            self.fault.set(StatusCode::PAYLOAD_TOO_LARGE);
            return Err(ReceiveError::TooLong(self.max));
        }
        self.progress += bytes;
        if self.progress >= MIN_PROGRESS_BYTES {
            (self.progress, self.patience) = (0, None);
        }
        Ok(())
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<ReceiveError> {
        let timeout = self.timeout;
        let patience = self
            .patience
            .get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(patience.as_mut().poll(cx));
        self.fault.set(StatusCode::REQUEST_TIMEOUT);
        Poll::Ready(ReceiveError::Stalled(timeout))
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = ReceiveError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReceiveError>>> {
        let Poll::Ready(polled) = Pin::new(&mut self.body).poll_frame(cx) else {
            return self.poll_stalled(cx).map(|stalled| Some(Err(stalled)));
        };
        Poll::Ready(match polled {
            Some(Ok(frame)) => {
                let counted = self.count(frame.data_ref().map_or(0, Bytes::len));
                Some(counted.map(|()| frame))
            }
            Some(Err(error)) => Some(Err(error.into())),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pin_project! {
    /// A response's body; its request is in flight until the body is gone.
    pub(super) struct Tracked<B> {
        #[pin]
        body: B,
        taking: Taking,
    }
}

/// A reader that takes a response, until it is dropped.
struct Taking {
    reader: Arc<Reader>,
    _in_flight: InFlight,
}

impl<B> Tracked<B> {
    pub(super) fn new(body: B, reader: Arc<Reader>, in_flight: InFlight) -> Self {
        let taking = Taking {
            reader,
            _in_flight: in_flight,
        };
        Self { body, taking }
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.reader.took();
    }
}

impl<B: Body> Body for Tracked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        this.taking.reader.took();
        let polled = this.body.poll_frame(cx);
        if polled.is_ready() {
            this.taking.reader.handed();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
