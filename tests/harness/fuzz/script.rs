//! Plays a caller that sends its bytes and hangs up when nothing more happens.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::yield_now,
};

/// The exchange is over when nothing has moved while every task was polled this many times.
const TURNS: usize = 16;

/// Holds what both sides of a caller's connection share.
#[derive(Default)]
pub(super) struct Caller {
    has_hung_up: Cell<bool>,
    /// Counts reads and writes.
    moves: Cell<usize>,
    reader: RefCell<Option<Waker>>,
}

/// The server's end of the caller's connection. Answers are dropped.
pub(super) struct Script<'a> {
    pub(super) caller: &'a Caller,
    /// The bytes that are still to be sent.
    pub(super) rest: &'a [u8],
}

impl Caller {
    /// Drives `connection` to its end. The caller hangs up when neither it nor the upstream has
    /// anything more to do. If it hung up earlier, hyper would give up the request in flight.
    /// `moves` counts what the upstream did.
    pub(super) async fn drive(&self, connection: impl Future, moves: impl Fn() -> usize) {
        let mut connection = pin!(connection);
        let quiet = async {
            let (mut before, mut turns) = (0, 0);
            while turns < TURNS {
                yield_now().await;
                let now = self.moves.get() + moves();
                turns = if now == before { turns + 1 } else { 0 };
                before = now;
            }
        };
        tokio::select! {
            biased;
            _ = connection.as_mut() => return,
            () = quiet => {}
        }
        self.has_hung_up.set(true);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        connection.await;
    }

    fn moved(&self) {
        self.moves.set(self.moves.get() + 1);
    }
}

impl AsyncRead for Script<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() && !self.caller.has_hung_up.get() {
            self.caller.reader.replace(Some(cx.waker().clone()));
            return Poll::Pending;
        }
        let (now, later) = self.rest.split_at(self.rest.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.rest = later;
        self.caller.moved();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.caller.moved();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
