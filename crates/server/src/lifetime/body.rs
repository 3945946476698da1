//! The body of an answer that ends with the credential of its request.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Bytes;
use serve::{
    body::{Body, BoxError, Cancelled},
    grpc,
};
use tokio::time::{Sleep, sleep};

use super::{expiry::Expiry, frames::Frames};

/// The longest time for a frame of a WebSocket that is being sent when the credential expires.
const GRACE: Duration = Duration::from_secs(1);

/// The body of an answer, which ends as its [`Form`] says when the credential expires.
///
/// An answer that is complete at once never ends early, because its first part and its end are passed on.
pub(super) struct Ending {
    /// The body, until it was ended.
    body: Option<Body>,
    expiry: Expiry,
    form: Form,
    has_begun: bool,
    /// Runs from the first time that the body waits for its source.
    timer: Option<Pin<Box<Sleep>>>,
}

/// The form of an answer, which has its own way to end early.
enum Form {
    /// The answer breaks off, so that it never looks complete.
    Plain,
    /// The answer to a gRPC call ends with a status.
    Call,
    /// A WebSocket ends with a Close frame, after the frame that is being sent.
    Socket {
        frames: Frames,
        /// Runs from the expiry on.
        late: Option<Pin<Box<Sleep>>>,
    },
}

type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

impl Ending {
    /// Returns an answer that ends with the credential.
    pub(super) fn of(response: Response<Body>, expiry: Expiry) -> Response<Body> {
        let (head, body) = response.into_parts();
        if body.is_end_stream() {
            return Response::from_parts(head, body);
        }
        // An answer with a length has no trailers.
        let takes_status =
            expiry.is_call && grpc::is_grpc(&head.headers) && body.size_hint().exact().is_none();
        let form = match head.status {
            StatusCode::SWITCHING_PROTOCOLS => Form::Socket {
                frames: Frames::default(),
                late: None,
            },
            _ if takes_status => Form::Call,
            _ => Form::Plain,
        };
        let body = Self {
            body: Some(body),
            expiry,
            form,
            has_begun: false,
            timer: None,
        };
        Response::from_parts(head, Body::streamed(body))
    }

    /// Passes on a part of the body that has come in time.
    fn pass(&mut self, data: Bytes) -> Polled {
        self.has_begun = true;
        if let Form::Socket { frames, .. } = &mut self.form {
            frames.follow(&data);
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    /// Ends the body. `data` is the next part of it, or is empty while the body waits for its source.
    fn poll_ended(&mut self, data: Bytes, cx: &mut Context<'_>) -> Polled {
        let reason = self.expiry.reason();
        let last = match &mut self.form {
            Form::Plain => Err(Cancelled(reason).into()),
            Form::Call => Ok(Frame::trailers(status(reason))),
            Form::Socket { frames, late } => {
                let late = late.get_or_insert_with(|| Box::pin(sleep(GRACE)));
                match (frames.last(&data, reason), late.as_mut().poll(cx)) {
                    (Some(last), _) => Ok(Frame::data(last)),
                    (None, Poll::Ready(())) => Err(Cancelled(reason).into()),
                    (None, Poll::Pending) if data.is_empty() => return Poll::Pending,
                    (None, Poll::Pending) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                }
            }
        };
        self.body = None;
        self.expiry.log();
        Poll::Ready(Some(last))
    }
}

/// Returns the trailers that end a gRPC call.
fn status(reason: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", grpc::code(StatusCode::UNAUTHORIZED).into());
    trailers.insert("grpc-message", HeaderValue::from_static(reason));
    trailers
}

impl http_body::Body for Ending {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        match Pin::new(body).poll_frame(cx) {
            Poll::Pending => {
                let Self { expiry, timer, .. } = &mut *self;
                ready!(expiry.poll_passed(timer, cx));
                self.poll_ended(Bytes::new(), cx)
            }
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) if self.has_begun && self.expiry.left().is_zero() => {
                    self.poll_ended(data, cx)
                }
                Ok(data) => self.pass(data),
                Err(trailers) => Poll::Ready(Some(Ok(trailers))),
            },
            ended => ended,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.as_ref().map(Body::size_hint);
        hint.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}
