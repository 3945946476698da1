//! A body that is sent over an HTTP/2 stream.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use common::cause;
use h2::{Reason, SendStream};
use http_body::{Body, Frame};
use hyper::body::Bytes;
use tokio::time::{Instant, timeout_at};

use crate::{
    body::{BoxError, Cancelled},
    limits::MIN_PROGRESS_BYTES,
};

/// The largest capacity that a stream reserves at once. A larger one would keep the connection's window
/// from its other streams.
const STEP: usize = 64 * 1024;

/// The reason why a body was not sent as a whole. The stream is reset then.
#[derive(Debug)]
pub enum SendError<E> {
    /// The source of the body failed.
    Body(E),
    /// The peer reset the stream, or the connection ended.
    Peer(h2::Error),
    /// The peer did not read enough in its time.
    Stalled,
}

/// Sends `body` to its end.
///
/// The connection gets only what fits the peer's window, so that the function returns when the peer has a
/// window for all of the body. `blocked` is called with `true` when the body waits for the window, and with
/// `false` afterwards. The peer has `patience` for each 1 KiB.
///
/// # Errors
/// Fails when the body fails, when the peer resets the stream, or when the peer reads too slowly.
pub async fn send_body<B>(
    stream: &mut SendStream<Bytes>,
    mut body: B,
    patience: Option<Duration>,
    blocked: impl Fn(bool),
) -> Result<(), SendError<B::Error>>
where
    B: Body<Data = Bytes, Error = BoxError> + Unpin,
{
    let sending = async {
        loop {
            let frame = poll_fn(|cx| poll_frame(stream, &mut body, cx)).await?;
            let Some(frame) = frame else {
                return stream
                    .send_data(Bytes::new(), true)
                    .map_err(SendError::Peer);
            };
            match frame.into_data() {
                Ok(data) => {
                    let is_end = body.is_end_stream();
                    send_data(stream, data, is_end, patience, &blocked).await?;
                    if is_end {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return stream.send_trailers(trailers).map_err(SendError::Peer);
                }
            }
        }
    };
    let sent = sending.await;
    match &sent {
        Err(SendError::Body(error)) => stream.send_reset(reason_of(&**error)),
        Err(SendError::Stalled) => stream.send_reset(Reason::CANCEL),
        _ => {}
    }
    sent
}

/// Returns the reason of the reset after a body that broke off. It is `CANCEL` if the body or its own stream
/// was cancelled, so that the next hop also sees a cancelled call.
fn reason_of(error: &(dyn std::error::Error + 'static)) -> Reason {
    let is_cancelled =
        |error: &h2::Error| error.is_reset() && error.reason() == Some(Reason::CANCEL);
    let is_cancelled = cause::find::<h2::Error>(error).is_some_and(is_cancelled);
    if is_cancelled || cause::find::<Cancelled>(error).is_some() {
        Reason::CANCEL
    } else {
        Reason::INTERNAL_ERROR
    }
}

/// The next frame of a body, or `None` at its end.
type NextFrame<E> = Result<Option<Frame<Bytes>>, SendError<E>>;

fn poll_frame<B>(
    stream: &mut SendStream<Bytes>,
    body: &mut B,
    cx: &mut Context<'_>,
) -> Poll<NextFrame<B::Error>>
where
    B: Body<Data = Bytes> + Unpin,
{
    match Pin::new(body).poll_frame(cx) {
        Poll::Ready(Some(Ok(frame))) => Poll::Ready(Ok(Some(frame))),
        Poll::Ready(Some(Err(error))) => Poll::Ready(Err(SendError::Body(error))),
        Poll::Ready(None) => Poll::Ready(Ok(None)),
        Poll::Pending => stream.poll_reset(cx).map(|reset| {
            Err(SendError::Peer(
                reset.map_or_else(|error| error, Into::into),
            ))
        }),
    }
}

async fn send_data<E>(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    is_end: bool,
    patience: Option<Duration>,
    blocked: &impl Fn(bool),
) -> Result<(), SendError<E>> {
    let mut deadline = None;
    let mut progress = 0;
    while !data.is_empty() {
        stream.reserve_capacity(data.len().min(STEP));
        let mut room = stream.capacity();
        if room == 0 {
            let until = patience.map(|patience| Instant::now() + patience);
            deadline = deadline.or(until);
            blocked(true);
            let waited = wait(stream, deadline).await;
            blocked(false);
            room = waited?;
            if room == 0 {
                continue;
            }
        }
        let part = data.split_to(room.min(data.len()));
        progress += part.len();
        if progress as u64 >= MIN_PROGRESS_BYTES {
            (progress, deadline) = (0, None);
        }
        let is_last = is_end && data.is_empty();
        stream.send_data(part, is_last).map_err(SendError::Peer)?;
        if is_last {
            return Ok(());
        }
    }
    if is_end {
        stream.send_data(data, true).map_err(SendError::Peer)
    } else {
        Ok(())
    }
}

/// Waits until the peer's window has room, and returns the number of bytes.
async fn wait<E>(
    stream: &mut SendStream<Bytes>,
    deadline: Option<Instant>,
) -> Result<usize, SendError<E>> {
    let room = poll_fn(|cx| {
        if let Poll::Ready(reset) = stream.poll_reset(cx) {
            return Poll::Ready(Err(reset.map_or_else(|error| error, Into::into)));
        }
        stream.poll_capacity(cx).map(|room| match room {
            Some(room) => room,
            None => Err(Reason::STREAM_CLOSED.into()),
        })
    });
    let room = match deadline {
        Some(deadline) => timeout_at(deadline, room)
            .await
            .map_err(|_| SendError::Stalled)?,
        None => room.await,
    };
    room.map_err(SendError::Peer)
}
