//! A request's body before it is sent: read as a whole, or to be sent as it comes.
//!
//! A small body is read before a connection is chosen. A caller that sends it slowly therefore holds
//! no connection, the body can be sent again, and it can share a connection with others' requests.
//! Any other body gets an exclusive connection, because an upstream that does not read it would hold
//! back all bodies that share its flow-control window. HTTP/1.1 also carries large bodies at less
//! cost: 64 MiB up at 583 MiB/s, against 524 over a shared connection
//! (`scripts/bench.sh --rows bodies`).

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{
    HeaderMap, HeaderValue, Method, Version,
    header::{CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING},
    request::Parts,
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Bytes;
use serve::{body::BoxError, grpc};
use tokio::time::{Instant, timeout_at};

use super::retry::is_repeatable;
use crate::trailers::announcement;

/// A body that a request can have.
pub trait RequestBody: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static {}

impl<B> RequestBody for B where B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static
{}

/// The longest body that is read before it is sent on, in bytes.
const SMALL: usize = 8 * 1024;

/// The time in which a body of unknown length has to end to be read as a whole.
const BRIEF: Duration = Duration::from_millis(2);

/// The version of HTTP that a request needs on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speech {
    /// Either version.
    Any,
    /// HTTP/2 where it is spoken, because the caller of HTTP/2 takes trailers.
    PreferHttp2,
    /// HTTP/2, because the request is a gRPC call.
    Http2,
    /// HTTP/1.1, because the request is for a WebSocket.
    Http1,
}

impl Speech {
    /// Returns the need of a request, whose head has the version of its caller.
    pub(super) fn of(head: &Parts) -> Self {
        if grpc::is_grpc(&head.headers) {
            Self::Http2
        } else if head.version == Version::HTTP_2 && head.headers.contains_key(TE) {
            Self::PreferHttp2
        } else {
            Self::Any
        }
    }
}

/// The kind of connection that a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// A connection that it may share.
    Shared {
        /// The length of its body, or zero.
        bytes: usize,
        /// Set if the request may be sent again when the connection closes as it is sent.
        is_repeatable: bool,
        speech: Speech,
    },
    /// A connection for this request alone, whose body can't be sent again.
    Exclusive(Speech),
}

impl Need {
    /// The need of most requests, which have no body and may be sent again.
    pub(super) const SMALL: Self = Self::Shared {
        bytes: 0,
        is_repeatable: true,
        speech: Speech::Any,
    };

    /// Returns whether the request needs a connection for itself.
    pub(super) fn is_exclusive(self) -> bool {
        matches!(self, Self::Exclusive(_))
    }

    /// Returns the version of HTTP that the request needs.
    pub(super) fn speech(self) -> Speech {
        match self {
            Self::Shared { speech, .. } | Self::Exclusive(speech) => speech,
        }
    }

    /// Returns whether the request may be sent again if the connection closes as it is sent.
    pub(super) fn is_repeatable(self) -> bool {
        matches!(
            self,
            Self::Shared {
                is_repeatable: true,
                ..
            }
        )
    }

    /// Returns the bytes of its body on a shared connection.
    pub(super) fn shared_bytes(self) -> usize {
        match self {
            Self::Shared { bytes, .. } => bytes,
            Self::Exclusive(_) => 0,
        }
    }
}

/// A body that was read to its end, with its trailers.
#[derive(Clone, Debug, Default)]
pub(super) struct Whole {
    pub(super) bytes: Bytes,
    /// The trailers are boxed because few bodies have any.
    pub(super) trailers: Option<Box<HeaderMap>>,
}

impl Whole {
    /// Returns whether there is nothing to send after the head.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.trailers.is_none()
    }

    /// Takes the next part, which is the data or the trailers.
    fn take_frame(&mut self) -> Option<Frame<Bytes>> {
        if !self.bytes.is_empty() {
            return Some(Frame::data(std::mem::take(&mut self.bytes)));
        }
        self.trailers
            .take()
            .map(|trailers| Frame::trailers(*trailers))
    }
}

/// A body, as far as it is known before it is sent.
#[derive(Debug)]
pub(super) enum Prepared<B> {
    /// A body that was read to its end.
    Whole(Whole),
    /// The part that was read, and the rest.
    Streamed(Bytes, B),
}

impl<B> Prepared<B> {
    /// Returns a copy of a body that was read to its end.
    pub(super) fn copy(&self) -> Option<Self> {
        match self {
            Self::Whole(whole) => Some(Self::Whole(whole.clone())),
            Self::Streamed(..) => None,
        }
    }
}

impl<B: RequestBody> Prepared<B> {
    /// Reads a small body to its end, and the beginning of one that may be small.
    pub(super) async fn read(mut body: B) -> Result<Self, BoxError> {
        if body.is_end_stream() {
            return Ok(Self::Whole(Whole::default()));
        }
        let length = body.size_hint().exact();
        if length.is_some_and(|length| length > SMALL as u64) {
            return Ok(Self::Streamed(Bytes::new(), body));
        }
        let deadline = length.is_none().then(|| Instant::now() + BRIEF);
        let mut begun = Whole::default();
        while begun.bytes.len() <= SMALL {
            let frame = match deadline {
                None => body.frame().await,
                Some(deadline) => match timeout_at(deadline, body.frame()).await {
                    Ok(frame) => frame,
                    Err(_) => return Ok(Self::Streamed(begun.bytes, body)),
                },
            };
            let Some(frame) = frame else {
                return Ok(Self::Whole(begun));
            };
            match frame.map_err(Into::into)?.into_data() {
                Ok(data) => begun.bytes = joined(begun.bytes, data),
                Err(frame) => {
                    begun.trailers = frame.into_trailers().ok().map(Box::new);
                    return Ok(Self::Whole(begun));
                }
            }
            if body.is_end_stream() {
                return Ok(Self::Whole(begun));
            }
        }
        Ok(Self::Streamed(begun.bytes, body))
    }

    /// Returns the body of a request that has none.
    pub(super) fn none() -> Self {
        Self::Whole(Whole::default())
    }

    /// Returns the kind of connection that a request by this method and in this version needs.
    pub(super) fn need(&self, method: &Method, speech: Speech) -> Need {
        match self {
            _ if speech == Speech::Http1 => Need::Exclusive(speech),
            Self::Whole(whole) => Need::Shared {
                bytes: whole.bytes.len(),
                is_repeatable: is_repeatable(method, self.is_some()),
                speech,
            },
            Self::Streamed(..) => Need::Exclusive(speech),
        }
    }

    /// Frames the body in a request's header fields. A body that was read has a length, whatever framing
    /// it came with. A body with trailers is chunked, and all of them are announced.
    pub(super) fn frame(&self, headers: &mut HeaderMap) {
        let Self::Whole(whole) = self else {
            return;
        };
        headers.remove(TRANSFER_ENCODING);
        if let Some(trailers) = &whole.trailers {
            headers.remove(CONTENT_LENGTH);
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            if let Some(names) = announcement(trailers.keys().cloned()) {
                headers.insert(TRAILER, names);
            }
        } else if !whole.bytes.is_empty() {
            headers.insert(CONTENT_LENGTH, whole.bytes.len().into());
        }
    }

    /// Returns whether there is a body at all.
    pub(super) fn is_some(&self) -> bool {
        !matches!(self, Self::Whole(whole) if whole.is_empty())
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_empty(),
            Self::Streamed(begun, rest) => begun.is_empty() && rest.is_end_stream(),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => SizeHint::with_exact(whole.bytes.len() as u64),
            Self::Streamed(begun, rest) => {
                let exact = rest.size_hint().exact();
                exact.map_or_else(SizeHint::default, |rest| {
                    SizeHint::with_exact(rest + begun.len() as u64)
                })
            }
        }
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Self::Whole(whole) => Poll::Ready(whole.take_frame().map(Ok)),
            Self::Streamed(begun, _) if !begun.is_empty() => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(begun)))))
            }
            Self::Streamed(_, rest) => Pin::new(rest).poll_frame(cx).map_err(Into::into),
        }
    }
}

fn joined(begun: Bytes, more: Bytes) -> Bytes {
    if begun.is_empty() {
        more
    } else {
        [begun, more].concat().into()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body_util::{Channel, Full};
    use tokio::time::sleep;

    use super::*;

    fn shared(bytes: usize) -> Need {
        Need::Shared {
            bytes,
            is_repeatable: false,
            speech: Speech::Any,
        }
    }

    fn full(length: usize) -> Full<Bytes> {
        Full::new(Bytes::from(vec![b'a'; length]))
    }

    #[tokio::test(start_paused = true)]
    async fn small_bodies_are_read_as_a_whole() {
        for (length, need) in [
            (0, Need::SMALL),
            (1, shared(1)),
            (SMALL, shared(SMALL)),
            (SMALL + 1, Need::Exclusive(Speech::Any)),
        ] {
            let prepared = Prepared::read(full(length)).await.unwrap();
            assert_eq!(prepared.need(&Method::GET, Speech::Any), need);
            assert_eq!(prepared.is_some(), length > 0);
            assert_eq!(prepared.size_hint().exact(), Some(length as u64));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_of_unknown_length_is_read_if_it_ends_soon_and_otherwise_streamed() {
        for (parts, pause, need) in [
            ([3_usize, 4], Duration::ZERO, shared(7)),
            ([SMALL, 1], Duration::ZERO, Need::Exclusive(Speech::Any)),
            ([3, 4], BRIEF * 2, Need::Exclusive(Speech::Any)),
        ] {
            let (mut source, body) = Channel::<Bytes>::new(9);
            tokio::spawn(async move {
                for length in parts {
                    source.send_data(vec![b'a'; length].into()).await.unwrap();
                    sleep(pause).await;
                }
            });
            let mut prepared = Prepared::read(body).await.unwrap();
            assert_eq!(prepared.need(&Method::GET, Speech::Any), need, "{parts:?}");
            let mut length = 0;
            while let Some(frame) = poll_fn(|cx| prepared.poll_frame(cx)).await {
                length += frame.unwrap().into_data().unwrap().len();
            }
            assert_eq!(length, parts.iter().sum::<usize>());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn trailers_of_a_small_body_are_kept_and_announced_p062() {
        let (mut source, body) = Channel::<Bytes>::new(9);
        let trailers =
            HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), "7".parse().unwrap())]);
        source.send_data("abc".into()).await.unwrap();
        source.send_trailers(trailers.clone()).await.unwrap();
        let mut prepared = Prepared::read(body).await.unwrap();
        assert_eq!(prepared.need(&Method::POST, Speech::Any), shared(3));
        let mut headers = HeaderMap::from_iter([(CONTENT_LENGTH, "3".parse().unwrap())]);
        prepared.frame(&mut headers);
        assert_eq!(headers["trailer"], "x-sum");
        assert_eq!(headers["transfer-encoding"], "chunked");
        assert_eq!(headers.len(), 2);
        let mut next = async || {
            poll_fn(|cx| prepared.poll_frame(cx))
                .await
                .transpose()
                .unwrap()
        };
        assert_eq!(next().await.unwrap().into_data().unwrap(), "abc");
        assert_eq!(next().await.unwrap().into_trailers().unwrap(), trailers);
        assert!(next().await.is_none());
    }

    #[test]
    fn only_grpc_needs_http2_and_a_caller_that_takes_trailers_prefers_it_h003() {
        use Speech::*;
        for (version, name, value, speech) in [
            (
                Version::HTTP_2,
                "content-type",
                "application/grpc+proto",
                Http2,
            ),
            (Version::HTTP_11, "content-type", "application/grpc", Http2),
            (Version::HTTP_2, "content-type", "application/grpc-web", Any),
            (Version::HTTP_2, "te", "trailers", PreferHttp2),
            (Version::HTTP_11, "te", "trailers", Any),
            (Version::HTTP_2, "accept", "*/*", Any),
        ] {
            let request = http::Request::builder().version(version);
            let request = request.header(name, value).body(()).unwrap();
            let (head, ()) = request.into_parts();
            assert_eq!(Speech::of(&head), speech, "{version:?} {name}: {value}");
        }
    }
}
