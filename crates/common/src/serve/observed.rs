//! A connection's bytes, watched as they come and go.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{activity::Activity, flood::FrameCounter};

pin_project! {
    /// A connection's I/O that notes when an HTTP/1.1 request begins, or counts HTTP/2 frames, and
    /// whether all that was written has left.
    pub(super) struct Observed<I> {
        #[pin]
        io: I,
        activity: Arc<Activity>,
        frames: Option<FrameCounter>,
    }
}

impl<I> Observed<I> {
    pub(super) fn http1(io: I, activity: Arc<Activity>) -> Self {
        let frames = None;
        Self {
            io,
            activity,
            frames,
        }
    }

    pub(super) fn http2(io: I, activity: Arc<Activity>) -> Self {
        let frames = Some(FrameCounter::new());
        Self {
            io,
            activity,
            frames,
        }
    }
}

impl<I: AsyncRead> AsyncRead for Observed<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buf.filled().len();
        ready!(this.io.poll_read(cx, buf))?;
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

impl<I: AsyncWrite> AsyncWrite for Observed<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        this.activity.writes();
        this.io.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        ready!(this.io.poll_flush(cx))?;
        this.activity.has_written();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().io.poll_shutdown(cx)
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
        this.activity.writes();
        this.io.poll_write_vectored(cx, bufs)
    }
}
