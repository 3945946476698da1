//! Connections without TLS. Their first bytes show the version of HTTP (RFC 9113 §3.3).

use std::io;

use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The first bytes of every HTTP/2 connection (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The beginning of a connection, which was read to tell its version.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) is_http2: bool,
    /// The bytes that were read.
    pub(super) bytes: Bytes,
}

/// Reads until the version of HTTP is known.
pub(super) async fn detect(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Beginning> {
    let mut read = [0; PREFACE.len()];
    let mut length = 0;
    while length < PREFACE.len() && read[..length] == PREFACE[..length] {
        match io.read(&mut read[length..]).await? {
            0 => break,
            more => length += more,
        }
    }
    Ok(Beginning {
        is_http2: read == *PREFACE,
        bytes: Bytes::copy_from_slice(&read[..length]),
    })
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        pin::Pin,
        sync::Arc,
        task::{Context, Poll},
    };

    use tokio::io::ReadBuf;

    use super::{
        super::{activity::Activity, observed::Observed},
        *,
    };
    use crate::in_flight::InFlightLimit;

    #[tokio::test]
    async fn the_first_bytes_show_the_version_and_nothing_is_lost() {
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
                let mut io = in_steps(bytes, step);
                let begun = detect(&mut io).await.unwrap();
                assert_eq!(begun.is_http2, is_http2, "{bytes:?}");
                let limit = InFlightLimit::new(1).of(Ipv4Addr::LOCALHOST.into());
                let mut io = Observed::new(io, begun, Activity::new(limit, None, Arc::default()));
                let mut read = vec![io.read_u8().await.unwrap_or_default()];
                read.truncate(bytes.len());
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
