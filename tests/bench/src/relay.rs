//! Relays bytes between two processes of one machine as over a long round trip. It delays each byte
//! by the same time in either direction and does not limit the bandwidth.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::Result;
use hyper::body::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{self, UnboundedReceiver, UnboundedSender},
    },
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};

/// The most bytes in flight in one direction of one connection. At a delay of 25 ms this allows 2.5
/// GiB/s, more than the 345 MiB/s that a direct connection reaches in the row `far`.
const QUEUE: usize = 64 << 20;
/// The relay reads at most this many bytes at once.
const CHUNK: usize = 256 << 10;

/// Holds a relay that runs. Dropping it ends the relay and its connections.
pub(crate) struct Relay {
    /// The port that it listens on.
    pub(crate) port: u16,
    accepting: AbortHandle,
}

/// Holds bytes in flight.
struct Chunk {
    bytes: Bytes,
    due: Instant,
    _room: OwnedSemaphorePermit,
}

impl Relay {
    /// Starts a relay to port `target` of this machine. `delay` is the time of one direction.
    pub(crate) async fn start(target: u16, delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                connections.spawn(connect(near, target, delay));
            }
        });
        Ok(Self {
            port,
            accepting: accepting.abort_handle(),
        })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Connects `near` with the target until both directions have ended.
async fn connect(near: TcpStream, target: u16, delay: Duration) -> Result<()> {
    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (from_near, to_near) = near.into_split();
    let (from_far, to_far) = far.into_split();
    tokio::join!(
        carry(from_near, to_far, delay),
        carry(from_far, to_near, delay)
    );
    Ok(())
}

/// Carries one direction to its end.
async fn carry(from: OwnedReadHalf, to: OwnedWriteHalf, delay: Duration) {
    let (sender, queue) = mpsc::unbounded_channel();
    tokio::join!(receive(from, sender, delay), deliver(to, queue));
}

/// Queues all bytes that it reads. Waits while the queue is full.
async fn receive(mut from: OwnedReadHalf, queue: UnboundedSender<Chunk>, delay: Duration) {
    let room = Arc::new(Semaphore::new(QUEUE));
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let due = Instant::now() + delay;
        let Ok(taken) = Arc::clone(&room).acquire_many_owned(length as u32).await else {
            return;
        };
        let chunk = Chunk {
            bytes: Bytes::copy_from_slice(&buffer[..length]),
            due,
            _room: taken,
        };
        if queue.send(chunk).is_err() {
            return;
        }
    }
}

/// Writes each chunk when it is due, then passes on the end.
async fn deliver(mut to: OwnedWriteHalf, mut queue: UnboundedReceiver<Chunk>) {
    while let Some(chunk) = queue.recv().await {
        sleep_until(chunk.due).await;
        if to.write_all(&chunk.bytes).await.is_err() {
            return;
        }
    }
    // A peer that has closed its connection needs no end.
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_and_their_end_arrive_complete_and_late_in_both_directions() {
        const DELAY: Duration = Duration::from_millis(20);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let relay = Relay::start(listener.local_addr().unwrap().port(), DELAY);
        let relay = relay.await.unwrap();
        tokio::spawn(async move {
            let (mut echo, _) = listener.accept().await.unwrap();
            let mut received = Vec::new();
            echo.read_to_end(&mut received).await.unwrap();
            echo.write_all(&received).await.unwrap();
        });
        let sent: Vec<u8> = (0..4 * CHUNK).map(|n| (n % 251) as u8).collect();
        let begin = Instant::now();
        let caller = TcpStream::connect((Ipv4Addr::LOCALHOST, relay.port)).await;
        let (mut read, mut write) = caller.unwrap().into_split();
        let writing = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut answer = Vec::new();
        let (_, read) = tokio::join!(writing, read.read_to_end(&mut answer));
        read.unwrap();
        assert!(answer == sent, "{} bytes of {}", answer.len(), sent.len());
        assert!(begin.elapsed() >= DELAY * 2, "{:?}", begin.elapsed());
    }
}
