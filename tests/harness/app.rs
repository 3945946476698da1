//! Serves an application without TLS, and records the requests that it gets.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex},
};

use http::{Request, Response, request::Parts};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    task::JoinSet,
};

/// An application that answers every request with its body, and ends with the value.
pub struct App {
    /// The application as `--upstream` names it.
    pub url: String,
    seen: Seen,
    _serving: JoinSet<()>,
    _directory: TempDir,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection of either kind.
trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A request as the application saw it.
pub type SeenRequest = (Parts, Bytes);

type Seen = Arc<Mutex<Vec<SeenRequest>>>;

/// The schemes of `--upstream` by which an application can be reached.
pub const SCHEMES: [&str; 4] = ["http", "h2c", "unix", "unix+h2c"];

impl App {
    /// Starts an application that is reached by this scheme.
    pub async fn start(scheme: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.sock");
        let (listener, url) = if scheme.starts_with("unix") {
            let listener = UnixListener::bind(&path).unwrap();
            (
                Listener::Unix(listener),
                format!("{scheme}:{}", path.display()),
            )
        } else {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            (Listener::Tcp(listener), format!("{scheme}://{address}"))
        };
        let (seen, mut serving) = (Seen::default(), JoinSet::new());
        serving.spawn(accept(listener, Arc::clone(&seen)));
        Self {
            url,
            seen,
            _serving: serving,
            _directory: directory,
        }
    }

    /// Returns the requests that were seen since the last call.
    pub fn take(&self) -> Vec<SeenRequest> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    /// Returns the only request that was seen since the last call.
    pub fn take_one(&self) -> SeenRequest {
        let mut seen = self.take();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Io>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

async fn accept(listener: Listener, seen: Seen) {
    while let Ok(io) = listener.accept().await {
        tokio::spawn(serve(io, Arc::clone(&seen)));
    }
}

/// Serves HTTP/1.1 or HTTP/2, as the caller begins.
async fn serve(io: Box<dyn Io>, seen: Seen) {
    let service = service_fn(move |request: Request<Incoming>| {
        let seen = Arc::clone(&seen);
        async move {
            let (head, body) = request.into_parts();
            let Ok(body) = body.collect().await else {
                return Ok(Response::new(Full::default()));
            };
            let body = body.to_bytes();
            seen.lock().unwrap().push((head, body.clone()));
            // The server must remove this field of an application.
            let answer = Response::builder().header("x-spiffe-id", "spiffe://evil.example/app");
            Ok::<_, Infallible>(answer.body(Full::new(body)).unwrap())
        }
    });
    let http = auto::Builder::new(TokioExecutor::new());
    // An error means that the caller has gone.
    let _ = http.serve_connection(TokioIo::new(io), service).await;
}
