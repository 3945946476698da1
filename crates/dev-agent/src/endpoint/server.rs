//! An HTTPS server for small documents: accept → TLS → one request.

use std::{convert::Infallible, future::ready, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{
    ServerConfig, crypto::aws_lc_rs, server::NoServerSessionStorage, sign::CertifiedKey,
    sign::SingleCertAndKey,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Mutex,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, warn};

use crate::{error::Error, throttle::Throttle};

/// The most connections at once.
const MAX_CONNECTIONS: usize = 256;
/// The longest life of a connection, from its accept to the end of its answer.
const DEADLINE: Duration = Duration::from_secs(10);
const BACKLOG: u32 = 1024;
/// The wait after a failed accept, for instance when file descriptors run out.
const BACKOFF: Duration = Duration::from_millis(100);

/// The contents of a server.
pub(super) trait Site: Send + Sync + 'static {
    /// Returns the certificate for the next connection, and its key.
    fn certificate(&self) -> Result<CertifiedKey, Error>;

    /// Returns the status and the JSON for a path. `host` is the name that the request has for this
    /// server.
    fn get(&self, path: &str, host: Option<&str>) -> (StatusCode, String);
}

/// A port, on which a server may listen. The port stays ours in between.
pub(super) struct Server {
    address: SocketAddr,
    /// Holds the port. The kernel refuses connections while no other socket listens on it.
    _reserved: TcpSocket,
    running: Mutex<Option<JoinSet<()>>>,
}

impl Server {
    /// Reserves the address.
    pub(super) fn bind(address: SocketAddr) -> Result<Self, Error> {
        let reserved = bind(address);
        let bound = reserved.and_then(|socket| Ok((socket.local_addr()?, socket)));
        let (address, reserved) = bound.map_err(|source| Error::Address { address, source })?;
        Ok(Self {
            address,
            _reserved: reserved,
            running: Mutex::default(),
        })
    }

    /// Returns the address, with the port that the kernel chose.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens and serves, if the server does not already.
    pub(super) async fn open(&self, site: Arc<dyn Site>) -> Result<(), Error> {
        let mut running = self.running.lock().await;
        if running.is_none() {
            let listener = bind(self.address).and_then(|socket| socket.listen(BACKLOG));
            let listener = listener.map_err(|source| Error::Address {
                address: self.address,
                source,
            })?;
            let mut server = JoinSet::new();
            server.spawn(accept(listener, site));
            *running = Some(server);
        }
        Ok(())
    }

    /// Ends all connections. New ones are refused once this returns.
    pub(super) async fn close(&self) {
        if let Some(mut running) = self.running.lock().await.take() {
            running.shutdown().await;
        }
    }
}

/// The throttles of the lines that callers can cause.
#[derive(Default)]
struct Throttles {
    accept_failures: Throttle,
    no_certificate: Throttle,
}

/// Binds a socket to an address that another socket has, unless a process listens there.
fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Serves connections, for as long as the future is polled.
async fn accept(listener: TcpListener, site: Arc<dyn Site>) {
    let (mut connections, throttles) = (JoinSet::new(), Arc::<Throttles>::default());
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, peer)) => {
                    let throttles = Arc::clone(&throttles);
                    connections.spawn(connection(stream, peer, Arc::clone(&site), throttles));
                }
                Err(error) => {
                    let log = || warn!(%error, "HTTPS endpoint: cannot accept");
                    throttles.accept_failures.log(log);
                    sleep(BACKOFF).await;
                }
            }
        }
    }
}

/// Serves one connection from its handshake to its end.
async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    site: Arc<dyn Site>,
    throttles: Arc<Throttles>,
) {
    let served = timeout(DEADLINE, serve(stream, site, &throttles)).await;
    let result = served.unwrap_or_else(|_| Err(format!("not complete within {DEADLINE:?}")));
    if let Err(error) = result {
        debug!(%peer, error, "HTTPS endpoint: connection ended");
    }
}

async fn serve(
    stream: TcpStream,
    site: Arc<dyn Site>,
    throttles: &Throttles,
) -> Result<(), String> {
    let certificate = site.certificate().map_err(|error| {
        let log = || error!(%error, "HTTPS endpoint: no certificate");
        throttles.no_certificate.log(log);
        error.to_string()
    })?;
    let config = tls(certificate).map_err(|error| error.to_string())?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let accepted = acceptor.accept(stream).await;
    let stream = accepted.map_err(|error| error.to_string())?;
    let service =
        service_fn(move |request| ready(Ok::<_, Infallible>(answer(site.as_ref(), &request))));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    served.map_err(|error| error.to_string())
}

/// Returns the TLS settings of one connection. It issues no tickets, because its certificate is its
/// own.
fn tls(certificate: CertifiedKey) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn answer(site: &dyn Site, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, body) = match *request.method() {
        Method::GET | Method::HEAD => {
            let host = request.headers().get(header::HOST);
            let host = host.and_then(|host| host.to_str().ok());
            site.get(request.uri().path(), host)
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, String::new()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let allowed = header::HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}
