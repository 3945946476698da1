//! Upstreams in the test's own process: one that answers by a function, one that only records.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use common::tls;
use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serve::body::Body;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::Stack;

type Answer = dyn Fn(Request<Incoming>) -> std::pin::Pin<Box<dyn Future<Output = Response<Body>> + Send>>
    + Send
    + Sync;

/// Numbers the connection that a request came over. Each request has it in its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionNumber(pub usize);

/// Configures an upstream's HTTP.
pub type Http = auto::Builder<TokioExecutor>;

/// Serves with the test's own X.509-SVID, speaking only `alpn`; its port.
pub async fn answering<F, R>(stack: &Stack, alpn: &[&str], answer: F) -> u16
where
    F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    answering_with(stack, alpn, |_| (), answer).await
}

/// Does as [`answering`] after `change` has changed the HTTP configuration.
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
    let identity = stack.identity().await;
    let mut config = Arc::unwrap_or_clone(tls::server(&identity.x509).unwrap());
    config.alpn_protocols = alpn
        .iter()
        .map(|protocol| protocol.as_bytes().to_vec())
        .collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer: Arc<Answer> = Arc::new(move |request| Box::pin(answer(request)));
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((tcp, _)) = listener.accept().await {
            tcp.set_nodelay(true).unwrap();
            let (http, acceptor, answer) = (http.clone(), acceptor.clone(), Arc::clone(&answer));
            tokio::spawn(connection(http, acceptor, tcp, answer, number));
            number += 1;
        }
        drop(identity);
    });
    port
}

async fn connection(
    http: Http,
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    answer: Arc<Answer>,
    number: usize,
) {
    let Ok(tls) = acceptor.accept(tcp).await else {
        return;
    };
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectionNumber(number));
        let answering = answer(request);
        async { Ok::<_, std::convert::Infallible>(answering.await) }
    });
    // A caller that breaks off is a test's own doing.
    let _ = http.serve_connection(TokioIo::new(tls), service).await;
}

/// Completes TLS handshakes with the test's own X.509-SVID and counts the bytes that come after.
pub struct Recording {
    /// Where it listens.
    pub port: u16,
    /// How many bytes came inside TLS, over all connections.
    pub bytes: Arc<AtomicUsize>,
}

impl Recording {
    /// Listens on a free port.
    pub async fn new(stack: &Stack) -> Self {
        let identity = stack.identity().await;
        let acceptor = TlsAcceptor::from(tls::server(&identity.x509).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let bytes = Arc::new(AtomicUsize::new(0));
        tokio::spawn({
            let bytes = Arc::clone(&bytes);
            async move {
                while let Ok((tcp, _)) = listener.accept().await {
                    let Ok(mut tls) = acceptor.accept(tcp).await else {
                        continue;
                    };
                    let mut buffer = [0; 1024];
                    while let Ok(n @ 1..) = tls.read(&mut buffer).await {
                        bytes.fetch_add(n, Ordering::SeqCst);
                    }
                }
                drop(identity);
            }
        });
        Self { port, bytes }
    }
}
