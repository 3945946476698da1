//! Serves upstreams in the test's own process. Two answer by a function, with TLS and without. One holds
//! its requests, and another only counts bytes.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use http::{Request, Response, StatusCode};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serve::body::{self, Body};
use tokio::{io::AsyncReadExt, net::TcpListener, sync::Semaphore};

use crate::{Stack, https::Stream, listen::listen};

/// Numbers the connection that a request came over. Each request has it in its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionNumber(pub usize);

/// Configures an upstream's HTTP.
pub type Http = auto::Builder<TokioExecutor>;

/// Serves with the test's own X.509-SVID, speaks only `alpn`, and returns its port.
pub async fn answering<F, R>(stack: &Stack, alpn: &[&str], answer: F) -> u16
where
    F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    answering_with(stack, alpn, |_| (), answer).await
}

/// Does the same as [`answering`] after `change` has changed the HTTP configuration.
pub async fn answering_with<F, R>(
    stack: &Stack,
    alpn: &[&str],
    change: impl FnOnce(&mut Http),
    answer: F,
) -> u16
where
    F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let mut http = Http::new(TokioExecutor::new());
    change(&mut http);
    listen(stack, alpn, answering_over(http, answer)).await
}

/// Serves an application without TLS, and returns its port. It speaks HTTP/1.1 and HTTP/2.
pub async fn plainly_answering<F, R>(answer: F) -> u16
where
    F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = answering_over(Http::new(TokioExecutor::new()), answer);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(serve(tcp));
        }
    });
    port
}

/// Returns what serves a connection by `answer`.
fn answering_over<F, R, S>(
    http: Http,
    answer: F,
) -> impl Fn(S) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync
where
    F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
    S: Stream + 'static,
{
    let (answer, next) = (Arc::new(answer), AtomicUsize::new(0));
    move |stream| {
        let number = ConnectionNumber(next.fetch_add(1, SeqCst));
        let answer = Arc::clone(&answer);
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(number);
            let answering = answer(request);
            async { Ok::<_, Infallible>(answering.await) }
        });
        let http = http.clone();
        Box::pin(async move {
            // A caller may end its connection in any way.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        })
    }
}

/// Holds each request over HTTP/2 until the test releases it, and answers it with `finished`.
#[derive(Debug)]
pub struct HoldingUpstream {
    /// The port that it listens on.
    pub port: u16,
    arrived: Arc<Semaphore>,
    released: Arc<Semaphore>,
}

impl HoldingUpstream {
    /// Listens on a free port.
    pub async fn new(stack: &Stack) -> Self {
        let (arrived, released) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let both = (Arc::clone(&arrived), Arc::clone(&released));
        let port = answering(stack, &["h2"], move |_| {
            let (arrived, released) = both.clone();
            async move {
                arrived.add_permits(1);
                released.acquire().await.unwrap().forget();
                body::text(StatusCode::OK, "finished")
            }
        })
        .await;
        Self {
            port,
            arrived,
            released,
        }
    }

    /// Waits until this number of requests have arrived since the last call.
    pub async fn arrived(&self, requests: u32) {
        self.arrived.acquire_many(requests).await.unwrap().forget();
    }

    /// Lets this number of requests finish.
    pub fn release(&self, requests: usize) {
        self.released.add_permits(requests);
    }
}

/// Completes TLS handshakes with the test's own X.509-SVID and counts the bytes that come after.
pub struct Recording {
    /// The port that it listens on.
    pub port: u16,
    /// The number of bytes that came inside TLS, over all connections.
    pub bytes: Arc<AtomicUsize>,
}

impl Recording {
    /// Listens on a free port.
    pub async fn new(stack: &Stack) -> Self {
        let bytes = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&bytes);
        let port = listen(stack, &["h2", "http/1.1"], move |mut tls| {
            let count = Arc::clone(&count);
            async move {
                let mut buffer = [0; 1024];
                while let Ok(n @ 1..) = tls.read(&mut buffer).await {
                    count.fetch_add(n, SeqCst);
                }
            }
        })
        .await;
        Self { port, bytes }
    }
}
