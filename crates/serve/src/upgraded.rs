//! The bytes of an upgraded connection, as a body.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http_body::{Body, Frame, SizeHint};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, ReadBuf, ReadHalf},
    sync::oneshot,
};

/// The most bytes that are read at once. They are on the stack until some have come, so that a silent
/// connection needs no memory for them.
const STEP: usize = 16 * 1024;

/// The sending side of the caller, once the connection is upgraded.
pub(crate) type Reader = ReadHalf<TokioIo<hyper::upgrade::Upgraded>>;

/// The bytes that a caller sends after the upgrade. There are none if the connection is not upgraded.
#[derive(Debug)]
pub struct Upgraded(State);

#[derive(Debug)]
enum State {
    Awaited(oneshot::Receiver<Reader>),
    Open(Reader),
    Ended,
}

impl Upgraded {
    /// Returns the body that begins when the upgrade gives its reader.
    pub(crate) fn after(reader: oneshot::Receiver<Reader>) -> Self {
        Self(State::Awaited(reader))
    }
}

/// Polls for the next bytes of a connection. They are `None` at its end.
///
/// # Errors
/// Fails when the connection breaks.
pub fn poll_read<I>(io: Pin<&mut I>, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>>
where
    I: AsyncRead,
{
    let mut space = [MaybeUninit::uninit(); STEP];
    let mut read = ReadBuf::uninit(&mut space);
    ready!(io.poll_read(cx, &mut read))?;
    let bytes = read.filled();
    let bytes = (!bytes.is_empty()).then(|| Bytes::copy_from_slice(bytes));
    Poll::Ready(Ok(bytes))
}

impl Body for Upgraded {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Self(state) = self.get_mut();
        if let State::Awaited(awaited) = state {
            *state = match ready!(Pin::new(awaited).poll(cx)) {
                Ok(reader) => State::Open(reader),
                Err(_) => State::Ended,
            };
        }
        let State::Open(reader) = state else {
            return Poll::Ready(None);
        };
        let read = ready!(poll_read(Pin::new(reader), cx));
        if !matches!(read, Ok(Some(_))) {
            *state = State::Ended;
        }
        Poll::Ready(read.transpose().map(|read| read.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, State::Ended)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
