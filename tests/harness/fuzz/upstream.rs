//! Serves as an upstream that reads strictly, keeps what it read, and answers each whole request.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_service::Service;

use super::wire::{self, Message};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// The upstream of all connections. Its clones are the same upstream.
#[derive(Clone, Default)]
pub(super) struct Upstream(Arc<Mutex<Read>>);

/// Holds what came over all connections.
#[derive(Default)]
pub(super) struct Read {
    /// The whole requests.
    pub(super) messages: Vec<Message>,
    /// The reason why some bytes are not a request.
    pub(super) fault: Option<String>,
    /// The number of bytes of requests that are not whole.
    pub(super) unfinished: usize,
    /// Counts reads and writes.
    pub(super) moves: usize,
}

/// Holds one connection.
pub(super) struct Link {
    upstream: Upstream,
    unread: Vec<u8>,
    answers: Vec<u8>,
    reader: Option<Waker>,
}

impl Upstream {
    pub(super) fn read(&self) -> MutexGuard<'_, Read> {
        self.0
            .lock()
            .expect("no code panics while it holds the lock")
    }
}

impl Service<Uri> for Upstream {
    type Response = TokioIo<Link>;
    type Error = Infallible;
    type Future = Ready<Result<TokioIo<Link>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(Ok(TokioIo::new(Link {
            upstream: self.clone(),
            unread: Vec::new(),
            answers: Vec::new(),
            reader: None,
        })))
    }
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let link = &mut *self;
        let mut read = link.upstream.read();
        link.unread.extend_from_slice(bytes);
        read.unfinished += bytes.len();
        read.moves += 1;
        loop {
            match wire::request(&link.unread) {
                Ok(Some((message, rest))) => {
                    let length = link.unread.len() - rest.len();
                    link.unread.drain(..length);
                    read.unfinished -= length;
                    read.messages.push(message);
                    link.answers.extend_from_slice(ANSWER);
                }
                Ok(None) => break,
                Err(fault) => {
                    read.fault = Some(fault);
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
            }
        }
        if let Some(reader) = link.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.answers.is_empty() {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let length = self.answers.len().min(buffer.remaining());
        buffer.put_slice(&self.answers[..length]);
        self.answers.drain(..length);
        self.upstream.read().moves += 1;
        Poll::Ready(Ok(()))
    }
}
