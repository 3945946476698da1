//! PINGs that tell whether a quiet peer still answers, and the round-trip time (RFC 9113 §6.7).
//!
//! hyper's keep-alive does not serve. It belongs to hyper's connections, and here `h2` is used directly. hyper (1.12)
//! also ends a connection whose PING is not answered in time, whatever else comes from the peer. A peer that reads
//! slowly sees the PING late, although it sends.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep, timeout},
};

/// The number of reads that brought bytes on a connection. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Heard(Arc<AtomicU64>);

impl Heard {
    /// Notes that bytes came.
    pub fn note(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The shortest measured round-trip time to a peer.
#[derive(Debug)]
pub struct RoundTrip(AtomicU64);

impl RoundTrip {
    /// Returns the time, or `None` before the first measurement.
    pub fn get(&self) -> Option<Duration> {
        match self.0.load(Relaxed) {
            u64::MAX => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    fn note(&self, time: Duration) {
        let micros = time.as_micros().try_into().unwrap_or(u64::MAX - 1);
        self.0.fetch_min(micros, Relaxed);
    }
}

impl Default for RoundTrip {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

/// Measures the round-trip time to a peer. A result of `far` or more is measured again, because an answer
/// may be late on a busy machine.
pub async fn measure(ping: Option<&mut PingPong>, round_trip: &RoundTrip, far: Duration) {
    const PINGS: usize = 3;
    let Some(ping) = ping else { return };
    for _ in 0..PINGS {
        let sent = Instant::now();
        // An error means that the connection has ended, which its own task reports.
        if ping.ping(Ping::opaque()).await.is_err() {
            return;
        }
        round_trip.note(sent.elapsed());
        if round_trip.get().is_some_and(|time| time < far) {
            return;
        }
    }
}

/// Waits until a peer is dead. It gets a PING after `every` without bytes from it, and is dead if it sends
/// nothing within `patience`. Any bytes from the peer count as a sign of life, also if it reads too slowly
/// to see the PING.
pub async fn dead(ping: Option<PingPong>, heard: Heard, every: Duration, patience: Duration) {
    let Some(mut ping) = ping else {
        return std::future::pending().await;
    };
    let (mut quiet, mut before) = (0, heard.count());
    loop {
        sleep(every / CHECKS).await;
        if heard.count() != before {
            (quiet, before) = (0, heard.count());
            continue;
        }
        quiet += 1;
        if quiet < CHECKS {
            continue;
        }
        quiet = 0;
        match timeout(patience, ping.ping(Ping::opaque())).await {
            // The connection has ended, which its own task reports.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) if heard.count() == before => return,
            _ => {}
        }
    }
}

/// The number of checks without new bytes after which a connection counts as quiet.
const CHECKS: u32 = 4;

/// The I/O of a connection that counts its reads.
#[derive(Debug)]
pub struct Listening<I> {
    io: I,
    heard: Heard,
    is_vectored: bool,
}

/// The longest DATA frame that `h2` copies next to others, in bytes, where writes are
/// [not vectored](Listening::unvectored).
pub const MAX_COPIED: usize = 1023;

impl<I> Listening<I> {
    /// Returns I/O that counts the reads from `io`.
    #[must_use]
    pub fn new(io: I) -> Self {
        Self {
            io,
            heard: Heard::default(),
            is_vectored: true,
        }
    }

    /// Reports that writes are not vectored, so that `h2` copies frames of up to [`MAX_COPIED`] bytes into
    /// one buffer. Otherwise it copies only frames below 256 bytes, and each longer one costs a write and
    /// a TLS record of its own. A POST of 1 KiB took 26.5 µs of CPU time instead of 28.6
    /// (`scripts/bench.sh --rows post-1k`). Larger bodies need vectored writes, because a frame's head
    /// would become a TLS record.
    #[must_use]
    pub fn unvectored(self) -> Self {
        Self {
            is_vectored: false,
            ..self
        }
    }

    /// Returns the count of reads that brought bytes.
    #[must_use]
    pub fn heard(&self) -> Heard {
        self.heard.clone()
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Listening<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if polled.is_ready() {
            self.heard.note();
        }
        polled
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Listening<I> {
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
        self.is_vectored && self.io.is_write_vectored()
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

    /// Serves a connection to `peer`, and returns after how many seconds the peer is found dead.
    async fn found_dead(peer: impl AsyncFnOnce(tokio::io::DuplexStream)) -> Option<u64> {
        let (own, other) = tokio::io::duplex(1024);
        let serving = async {
            let io = Listening::new(own);
            let heard = io.heard();
            let mut h2 = h2::server::handshake(io).await.unwrap();
            let ping = h2.ping_pong();
            let start = Instant::now();
            tokio::select! {
                () = dead(ping, heard, Duration::from_secs(20), Duration::from_secs(10)) => {
                    Some(start.elapsed().as_secs())
                }
                _ = h2.accept() => None,
            }
        };
        tokio::select! {
            found = serving => found,
            () = async { peer(other).await; std::future::pending().await } => unreachable!(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_is_dead_only_if_it_answers_no_ping() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let silent = found_dead(async |mut io| {
            io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
                .await
                .unwrap();
            let mut sink = Vec::new();
            io.read_to_end(&mut sink).await.unwrap();
        });
        // The peer's preface may arrive after the first check.
        assert!(matches!(silent.await, Some(30 | 35)));
        let alive = found_dead(async |io| {
            let (sender, connection) = h2::client::handshake(io).await.unwrap();
            tokio::select! {
                _ = connection => {}
                () = sleep(Duration::from_secs(3600)) => {}
            }
            drop(sender);
        });
        let waited = timeout(Duration::from_secs(600), alive).await;
        assert!(waited.is_err(), "{waited:?}");
    }
}
