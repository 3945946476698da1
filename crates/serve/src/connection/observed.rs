//! A connection's I/O, observed in both directions.
//!
//! An HTTP/1.1 connection reads no further request while an answer waits for its reader. hyper would
//! continue to read and would keep every answer in memory.
//!
//! A connection that ends closes its sending side first, and then reads what the peer still sends. The
//! kernel would reset a socket that is closed with unread input, and the last answer could be lost (RFC
//! 9112 §9.6).

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use hyper::body::Bytes;
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::{activity::Activity, flood::FrameCounter, plaintext::Beginning};
use crate::http2::Heard;

/// The bounds after a connection has closed its sending side. They are the time for the peer's next
/// bytes, the time in all, and the bytes that are read.
const LINGER_QUIET: Duration = Duration::from_secs(2);
const LINGER: Duration = Duration::from_secs(30);
const LINGER_BYTES: usize = 16 * 1024 * 1024;

pin_project! {
    /// The I/O of a connection. It notes when an HTTP/1.1 request begins, counts HTTP/2 frames, and notes
    /// whether output waits for the peer.
    pub(super) struct Observed<I> {
        #[pin]
        io: I,
        // The beginning of the input, which was read before.
        begun: Bytes,
        activity: Arc<Activity>,
        frames: Option<FrameCounter>,
        heard: Heard,
        // The task that waits to read a further request.
        reader: Option<Waker>,
        lingering: Option<Lingering>,
    }
}

/// The state of a connection that has closed its sending side.
struct Lingering {
    quiet: Pin<Box<Sleep>>,
    until: Instant,
    left: usize,
}

impl<I> Observed<I> {
    /// Observes the connection on `io`, which has begun already.
    pub(super) fn new(io: I, begun: Beginning, activity: Arc<Activity>) -> Self {
        Self {
            io,
            begun: begun.bytes,
            activity,
            frames: begun.is_http2.then(FrameCounter::new),
            heard: Heard::default(),
            reader: None,
            lingering: None,
        }
    }

    /// Returns the count of reads that brought bytes.
    pub(super) fn heard(&self) -> Heard {
        self.heard.clone()
    }
}

/// Notes whether a write waits for the peer. If it does not, wakes the task that waits to read.
fn note_written<T>(
    polled: Poll<io::Result<T>>,
    activity: &Activity,
    reader: &mut Option<Waker>,
) -> Poll<io::Result<T>> {
    if polled.is_pending() {
        activity.waits_for_reader();
    } else {
        activity.was_read();
        if let Some(reader) = reader.take() {
            reader.wake();
        }
    }
    polled
}

fn count_sent(polled: &Poll<io::Result<usize>>, activity: &Activity) {
    if let Poll::Ready(Ok(bytes)) = polled {
        activity.counts.sent.add(*bytes as u64);
    }
}

impl<I: AsyncRead> AsyncRead for Observed<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        if this.frames.is_none() && !this.activity.may_read() {
            *this.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if this.begun.is_empty() {
            ready!(this.io.poll_read(cx, buf))?;
        } else {
            let count = this.begun.len().min(buf.remaining());
            buf.put_slice(&this.begun.split_to(count));
        }
        this.heard.note();
        let received = buf.filled().len() - before;
        this.activity.counts.received.add(received as u64);
        Poll::Ready(match this.frames {
            Some(frames) => frames
                .received(&buf.filled()[before..])
                .map_err(io::Error::other),
            None => {
                this.activity.received();
                Ok(())
            }
        })
    }
}

impl<I: AsyncRead + AsyncWrite> AsyncWrite for Observed<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let polled = this.io.poll_write(cx, buf);
        count_sent(&polled, this.activity);
        note_written(polled, this.activity, this.reader)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        note_written(this.io.poll_flush(cx), this.activity, this.reader)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        let Some(lingering) = this.lingering else {
            ready!(this.io.as_mut().poll_shutdown(cx))?;
            let lingering = this.lingering.insert(Lingering::new());
            return lingering.poll(this.io, cx);
        };
        lingering.poll(this.io, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let polled = this.io.poll_write_vectored(cx, bufs);
        count_sent(&polled, this.activity);
        note_written(polled, this.activity, this.reader)
    }
}

impl Lingering {
    fn new() -> Self {
        Self {
            quiet: Box::pin(sleep(LINGER_QUIET)),
            until: Instant::now() + LINGER,
            left: LINGER_BYTES,
        }
    }

    /// Reads until the peer closes its side or a bound is reached. Errors are ignored, because the last
    /// answer was sent.
    fn poll(
        &mut self,
        mut io: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut scratch = [0; 4096];
        loop {
            let mut buf = ReadBuf::new(&mut scratch);
            match io.as_mut().poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() && self.left > 0 => {
                    self.left = self.left.saturating_sub(buf.filled().len());
                    let quiet = (Instant::now() + LINGER_QUIET).min(self.until);
                    self.quiet.as_mut().reset(quiet);
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return self.quiet.as_mut().poll(cx).map(Ok),
            }
        }
    }
}
