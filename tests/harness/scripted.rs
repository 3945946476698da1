//! Serves HTTP/2 with frames that a test chooses. It presents the test's own X.509-SVID.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::server::TlsStream;

use crate::{
    Stack,
    frames::{self, ACK, DATA, END_STREAM, Frame, HEADERS, PING, SETTINGS, frame},
    listen::listen,
};

/// Listens and hands each connection to a script.
pub struct Scripted {
    /// The port that it listens on.
    pub port: u16,
    connections: Arc<AtomicUsize>,
}

/// Holds one connection whose peer has sent its preface and was sent SETTINGS.
pub struct ScriptedPeer {
    /// The number of connections that came before it.
    pub number: usize,
    tls: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

/// Names a request whose head has come.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The number of its stream.
    pub stream: u32,
    /// The head does not end the stream.
    pub has_body: bool,
}

impl Scripted {
    /// Starts an upstream that speaks only HTTP/2, with empty SETTINGS. `script` serves each
    /// connection.
    pub async fn new<F, R>(stack: &Stack, script: F) -> Self
    where
        F: Fn(ScriptedPeer) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        Self::with(stack, b"", script).await
    }

    /// Does the same as [`Self::new`] with these SETTINGS.
    pub async fn with<F, R>(stack: &Stack, settings: &'static [u8], script: F) -> Self
    where
        F: Fn(ScriptedPeer) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let connections = Arc::<AtomicUsize>::default();
        let (count, script) = (Arc::clone(&connections), Arc::new(script));
        let port = listen(stack, &["h2"], move |tls| {
            let number = count.fetch_add(1, SeqCst);
            let script = Arc::clone(&script);
            async move {
                if let Some(peer) = ScriptedPeer::greet(number, tls, settings).await {
                    script(peer).await;
                }
            }
        })
        .await;
        Self { port, connections }
    }

    /// Returns how many connections came.
    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

impl ScriptedPeer {
    async fn greet(number: usize, mut tls: TlsStream<TcpStream>, settings: &[u8]) -> Option<Self> {
        let mut preface = [0; 24];
        tls.read_exact(&mut preface).await.ok()?;
        let buffer = Vec::new();
        let mut peer = Self {
            number,
            tls,
            buffer,
        };
        let greeting = frame(SETTINGS, 0, 0, settings);
        peer.send(greeting).await.then_some(peer)
    }

    /// Sends bytes and returns whether all were taken.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let sent = self.tls.write_all(bytes.as_ref()).await;
        sent.is_ok() && self.tls.flush().await.is_ok()
    }

    /// Reads the next frame, or `None` at the end. Acknowledges SETTINGS and PING. A call that is
    /// cancelled loses nothing.
    pub async fn next(&mut self) -> Option<Frame> {
        let next = loop {
            if let Some(next) = frames::split_frame(&mut self.buffer) {
                break next;
            }
            if self.tls.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        };
        let is_new = next.flags & ACK == 0;
        match next.kind {
            SETTINGS if is_new => self.send(frame(SETTINGS, ACK, 0, &[])).await,
            PING if is_new => self.send(frame(PING, ACK, 0, &next.payload)).await,
            _ => true,
        };
        Some(next)
    }

    /// Waits for the head of the next request, or `None` at the end.
    pub async fn asked(&mut self) -> Option<Asked> {
        loop {
            let next = self.next().await?;
            if next.kind == HEADERS {
                return Some(Asked {
                    stream: next.stream,
                    has_body: next.flags & END_STREAM == 0,
                });
            }
        }
    }

    /// Reads the body of a request to its end and drops the frames of other streams.
    pub async fn body(&mut self, asked: Asked) -> Option<Vec<u8>> {
        let (mut body, mut continues) = (Vec::new(), asked.has_body);
        while continues {
            let next = self.next().await?;
            if next.kind == DATA && next.stream == asked.stream {
                continues = next.flags & END_STREAM == 0;
                body.extend(next.payload);
            }
        }
        Some(body)
    }

    /// Ends the connection with close_notify after all bytes that were sent before.
    pub async fn close(mut self) {
        let _ = self.tls.shutdown().await;
        // A connection that is closed with unread bytes loses what it has sent.
        let mut sink = Vec::new();
        let _ = timeout(Duration::from_secs(1), self.tls.read_to_end(&mut sink)).await;
    }

    /// Ends the connection without close_notify.
    pub async fn cut(self) {
        let (mut tcp, _) = self.tls.into_inner();
        let _ = tcp.shutdown().await;
        let mut sink = Vec::new();
        let _ = timeout(Duration::from_secs(1), tcp.read_to_end(&mut sink)).await;
    }
}
