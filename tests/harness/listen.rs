//! Listens for TLS with the test's own X.509-SVID: the base of every upstream that a test makes.

use std::sync::Arc;

use common::tls;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::Stack;

/// Listens on a free port, speaks only the protocols `alpn`, and serves each connection by `serve`.
/// Returns the port.
pub async fn listen<F, R>(stack: &Stack, alpn: &[&str], serve: F) -> u16
where
    F: Fn(TlsStream<TcpStream>) -> R + Send + Sync + 'static,
    R: Future + Send + 'static,
{
    let identity = stack.identity().await;
    let mut config = Arc::unwrap_or_clone(tls::server(&identity.x509).unwrap());
    config.alpn_protocols = alpn
        .iter()
        .map(|protocol| protocol.as_bytes().to_vec())
        .collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = Arc::new(serve);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tcp.set_nodelay(true).unwrap();
            let (acceptor, serve) = (acceptor.clone(), Arc::clone(&serve));
            tokio::spawn(async move {
                // A caller may end its handshake in any way.
                if let Ok(tls) = acceptor.accept(tcp).await {
                    let _ = serve(tls).await;
                }
            });
        }
        drop(identity);
    });
    port
}
