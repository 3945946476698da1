//! Asks a quiet peer by PING if it is still there, and how far it is (RFC 9113 §6.7).

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

/// Counts how often bytes came over a connection.
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

/// The shortest round trip to a peer so far, by PING.
#[derive(Debug)]
pub struct RoundTrip(AtomicU64);

impl RoundTrip {
    /// Returns it, once it was measured.
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

/// Measures the round trip to a peer: once, and again if it seems to be `far`, because an answer may be
/// late where a machine is busy.
pub async fn measure(ping: Option<&mut PingPong>, round_trip: &RoundTrip, far: Duration) {
    const PINGS: usize = 3;
    let Some(ping) = ping else { return };
    for _ in 0..PINGS {
        let sent = Instant::now();
        // The connection ends by itself.
        if ping.ping(Ping::opaque()).await.is_err() {
            return;
        }
        round_trip.note(sent.elapsed());
        if round_trip.get().is_some_and(|time| time < far) {
            return;
        }
    }
}

/// Returns once the peer of a connection that was quiet for `every` has sent nothing for `patience`
/// after a PING. A peer that is slow to read what is before the PING, and says so, is there.
pub async fn dead(ping: Option<PingPong>, heard: Heard, every: Duration, patience: Duration) {
    let Some(mut ping) = ping else {
        return std::future::pending().await;
    };
    let (mut quiet, mut before) = (0, heard.count());
    loop {
        sleep(every / LOOKS).await;
        if heard.count() != before {
            (quiet, before) = (0, heard.count());
            continue;
        }
        quiet += 1;
        if quiet < LOOKS {
            continue;
        }
        quiet = 0;
        match timeout(patience, ping.ping(Ping::opaque())).await {
            // The connection ends by itself.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) if heard.count() == before => return,
            _ => {}
        }
    }
}

/// The looks at a connection that find nothing new before it counts as quiet.
const LOOKS: u32 = 4;

/// A connection's I/O that counts how often bytes come.
#[derive(Debug)]
pub struct Listening<I> {
    io: I,
    heard: Heard,
}

impl<I> Listening<I> {
    /// Listens to what is read from `io`.
    #[must_use]
    pub fn new(io: I) -> Self {
        Self {
            io,
            heard: Heard::default(),
        }
    }

    /// Returns the time of the last bytes that were read.
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

    /// Serves a connection whose peer is `peer`, and returns how long it took to find it dead.
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
    async fn a_peer_that_answers_no_ping_is_dead_and_one_that_does_is_not() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let silent = found_dead(async |mut io| {
            io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
                .await
                .unwrap();
            let mut sink = Vec::new();
            io.read_to_end(&mut sink).await.unwrap();
        });
        // Its greeting may be heard after the first look.
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
