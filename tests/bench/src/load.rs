//! Generates load that wrk and h2load cannot generate: a new TLS connection or another token for
//! each request, and idle connections. wrk does not report how many sessions it resumes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use futures_util::future::try_join_all;
use harness::https::Https;
use rustls::{ClientConfig, HandshakeKind, client::Resumption};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use crate::{figure::quantile, tools::LoadResult, unverified};

/// The answer of every stack begins with this text.
const GOOD: &[u8] = b"HTTP/1.1 200 ";
/// The answer of every stack ends with this text.
const BODY: &[u8] = b"Success!!!";
/// Every answer takes less time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends requests and checks each answer.
#[derive(Clone)]
pub(crate) struct Caller {
    https: Https,
    tls: ClientConfig,
}

impl Caller {
    /// Returns a caller that sends to `port` of this machine.
    pub(crate) fn new(port: u16) -> Self {
        let mut tls = unverified::client();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            https: Https::new(port, ""),
            tls,
        }
    }

    /// Returns a caller that offers HTTP/2, for [`Self::connect`] only.
    pub(crate) fn http2(mut self) -> Self {
        self.tls.alpn_protocols = vec![b"h2".to_vec()];
        self
    }

    /// Returns a caller that resumes its own sessions if the server offers that.
    fn resuming(&self) -> Self {
        let mut caller = self.clone();
        caller.tls.resumption = Resumption::in_memory_sessions(1);
        caller
    }

    /// Opens a TLS connection from `source`, an address of this machine.
    pub(crate) async fn connect(&self, source: &str) -> Result<TlsStream<TcpStream>> {
        let https = self.https.from(source);
        let connecting = https.connect_with(self.tls.clone(), "localhost");
        Ok(timeout(PATIENCE, connecting).await??)
    }

    /// Keeps `connections` open for `duration`, each for one request. All handshakes are full ones
    /// unless `resume` is set.
    pub(crate) async fn new_connections(
        &self,
        token: &str,
        connections: usize,
        duration: Duration,
        resume: bool,
    ) -> Result<LoadResult> {
        let head = head(token, "Connection: close\r\n");
        let end = Instant::now() + duration;
        let resumed = AtomicU64::new(0);
        let worker = || async {
            let caller = if resume {
                self.resuming()
            } else {
                self.clone()
            };
            let mut times = Vec::new();
            while Instant::now() < end {
                let begin = Instant::now();
                let mut connection = caller.connect("127.0.0.1").await?;
                exchange(&mut connection, &head).await?;
                times.push(millis(begin));
                if connection.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
                    resumed.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(times)
        };
        let load = run(connections, worker).await?;
        Ok(LoadResult {
            resumed: resumed.into_inner(),
            ..load
        })
    }

    /// Sends one request for each token over `connections` kept-alive connections.
    pub(crate) async fn each_token(
        &self,
        tokens: Arc<Vec<String>>,
        connections: usize,
    ) -> Result<LoadResult> {
        let next = AtomicUsize::new(0);
        let worker = || async {
            let mut connection = self.connect("127.0.0.1").await?;
            let mut times = Vec::new();
            while let Some(token) = tokens.get(next.fetch_add(1, Ordering::Relaxed)) {
                let begin = Instant::now();
                exchange(&mut connection, &head(token, "")).await?;
                times.push(millis(begin));
            }
            Ok(times)
        };
        run(connections, worker).await
    }

    /// Sends `count` POSTs of `bytes` over `connections` kept-alive connections.
    pub(crate) async fn posts(
        &self,
        token: &str,
        connections: usize,
        count: usize,
        bytes: usize,
    ) -> Result<LoadResult> {
        let length = format!("Content-Length: {bytes}\r\n");
        let mut post = b"POST".to_vec();
        post.extend(&head(token, &length)["GET".len()..]);
        post.extend(vec![b'a'; bytes]);
        let left = AtomicUsize::new(count);
        let worker = || async {
            let mut connection = self.connect("127.0.0.1").await?;
            let mut times = Vec::new();
            while take(&left) {
                let begin = Instant::now();
                exchange(&mut connection, &post).await?;
                times.push(millis(begin));
            }
            Ok(times)
        };
        run(connections, worker).await
    }

    /// Sends requests on `connections` until `work` is done. Returns its result and their times.
    pub(crate) async fn next_to<T>(
        &self,
        token: &str,
        connections: usize,
        work: impl Future<Output = Result<T>>,
    ) -> Result<(T, LoadResult)> {
        let done = AtomicBool::new(false);
        let head = head(token, "");
        let worker = || async {
            let mut connection = self.connect("127.0.0.1").await?;
            let mut times = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let begin = Instant::now();
                exchange(&mut connection, &head).await?;
                times.push(millis(begin));
            }
            Ok(times)
        };
        let work = async {
            let result = work.await;
            done.store(true, Ordering::Relaxed);
            result
        };
        let (result, load) = tokio::join!(work, run(connections, worker));
        Ok((result?, load?))
    }

    /// Returns `count` connections that had one request each and now stay idle. They come from
    /// several addresses, because the connections of one address are limited.
    pub(crate) async fn idle(
        &self,
        token: &str,
        count: usize,
    ) -> Result<Vec<TlsStream<TcpStream>>> {
        const AT_ONCE: usize = 100;
        let head = head(token, "");
        let mut open = Vec::with_capacity(count);
        while open.len() < count {
            let batch = (open.len()..count.min(open.len() + AT_ONCE)).map(|index| {
                let head = &head;
                async move {
                    let source = format!("127.0.0.{}", 1 + index % 4);
                    let mut connection = self.connect(&source).await?;
                    exchange(&mut connection, head).await?;
                    anyhow::Ok(connection)
                }
            });
            open.extend(try_join_all(batch).await?);
        }
        Ok(open)
    }
}

/// Sends `count` requests without TLS and without a token over `connections` kept-alive connections.
pub(crate) async fn plaintext(port: u16, connections: usize, count: usize) -> Result<LoadResult> {
    let left = AtomicUsize::new(count);
    let worker = || async {
        let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
        let mut times = Vec::new();
        while take(&left) {
            let begin = Instant::now();
            exchange(
                &mut connection,
                b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            )
            .await?;
            times.push(millis(begin));
        }
        Ok(times)
    };
    run(connections, worker).await
}

/// Takes one of what is left. Returns false if nothing is.
fn take(left: &AtomicUsize) -> bool {
    let one_less = |left: usize| left.checked_sub(1);
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
        .is_ok()
}

/// Runs `worker` `workers` times at once, and joins the times in ms that they return.
async fn run<F: Future<Output = Result<Vec<f64>>>>(
    workers: usize,
    worker: impl Fn() -> F,
) -> Result<LoadResult> {
    let begin = Instant::now();
    let times = try_join_all((0..workers).map(|_| worker())).await?;
    let elapsed = begin.elapsed();
    let mut times = times.concat();
    if times.is_empty() {
        bail!("no request was made");
    }
    Ok(LoadResult {
        requests: times.len() as u64,
        bad: 0,
        per_second: times.len() as f64 / elapsed.as_secs_f64(),
        p99_millis: quantile(&mut times, 0.99),
        resumed: 0,
    })
}

fn head(token: &str, fields: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{fields}\r\n")
        .into_bytes()
}

/// Sends a request and reads its whole answer, which must be the expected one.
async fn exchange<C>(connection: &mut C, head: &[u8]) -> Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    connection.write_all(head).await?;
    connection.flush().await?;
    let mut answer = Vec::with_capacity(512);
    while !answer.ends_with(BODY) {
        let read = timeout(PATIENCE, connection.read_buf(&mut answer));
        let ended = read.await.context("no answer")?? == 0;
        if ended || answer.len() >= GOOD.len() && !answer.starts_with(GOOD) {
            break;
        }
    }
    if !answer.starts_with(GOOD) || !answer.ends_with(BODY) {
        let start: Vec<u8> = answer.into_iter().take(200).collect();
        bail!(
            "an unexpected answer: {:?}",
            String::from_utf8_lossy(&start)
        );
    }
    Ok(())
}

fn millis(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1000.0
}
