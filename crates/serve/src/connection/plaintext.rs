//! Connections without TLS: the version of HTTP is told from the first bytes (RFC 9113 §3.3).

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// The first bytes of every HTTP/2 connection (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection whose first bytes were read already.
#[derive(Debug)]
pub(super) struct Prefixed<I> {
    io: I,
    prefix: [u8; PREFACE.len()],
    /// The part of the prefix that was not read again.
    left: std::ops::Range<usize>,
}

/// Reads until the version of HTTP is known. Returns whether it is HTTP/2, and the connection as if
/// nothing had been read.
pub(super) async fn detect<I>(mut io: I) -> io::Result<(bool, Prefixed<I>)>
where
    I: AsyncRead + Unpin,
{
    let mut prefix = [0; PREFACE.len()];
    let mut length = 0;
    while length < PREFACE.len() && prefix[..length] == PREFACE[..length] {
        match io.read(&mut prefix[length..]).await? {
            0 => break,
            read => length += read,
        }
    }
    let is_http2 = prefix == *PREFACE;
    let left = 0..length;
    Ok((is_http2, Prefixed { io, prefix, left }))
}

impl<I: AsyncRead + Unpin> AsyncRead for Prefixed<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.left.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let count = this.left.len().min(buf.remaining());
        let end = this.left.start + count;
        buf.put_slice(&this.prefix[this.left.start..end]);
        this.left.start = end;
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Prefixed<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_version_is_told_from_the_first_bytes_and_nothing_is_lost() {
        let mut preface = PREFACE.to_vec();
        preface.extend(b"\0\0\0\x04\0\0\0\0\0");
        for (bytes, is_http2) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], false),
            (b"P", false),
            (b"POST / HTTP/1.1\r\n", false),
            (b"PRI * HTTP/1.1\r\nhost: a\r\n\r\n", false),
            (b"", false),
            (PREFACE, true),
            (&preface, true),
        ] {
            for step in [1, 5, 100] {
                let mut mock = in_steps(bytes, step);
                let (found, mut io) = detect(&mut mock).await.unwrap();
                assert_eq!(found, is_http2, "{bytes:?}");
                let mut read = Vec::new();
                io.read_to_end(&mut read).await.unwrap();
                assert_eq!(read, bytes);
            }
        }
    }

    /// Returns a reader that gives at most `step` bytes at once.
    fn in_steps(bytes: &[u8], step: usize) -> impl AsyncRead + Unpin + use<'_> {
        struct Steps<'a>(&'a [u8], usize);
        impl AsyncRead for Steps<'_> {
            fn poll_read(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                let count = self.1.min(buf.remaining()).min(self.0.len());
                let (now, later) = self.0.split_at(count);
                buf.put_slice(now);
                self.0 = later;
                Poll::Ready(Ok(()))
            }
        }
        Steps(bytes, step)
    }
}
