//! The connections of the admin listener: few, short, and with deadlines.

use std::{collections::VecDeque, convert::Infallible, pin::pin, sync::Arc, time::Duration};

use common::throttle::Episode;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serve::{listen::Socket, shutdown::Shutdown};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tracing::debug;

use super::router::{Router, Sender};

/// The most connections at once. For a further one, the oldest is closed.
const MAX_CONNECTIONS: usize = 32;

/// The longest time for the head of a request, and the longest head in bytes and in fields.
const HEAD: Duration = Duration::from_secs(10);
const MAX_HEAD: usize = 16 * 1024;
const MAX_FIELDS: usize = 64;

/// The longest life of a connection, and the longest time for its last request after that.
const LIFE: Duration = Duration::from_secs(60);
const LAST: Duration = Duration::from_secs(10);

/// The pause after a connection can't be accepted, for example without a file descriptor.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves connections to `socket`, until `end` if there is one.
pub(super) async fn serve(socket: Socket, router: Arc<Router>, end: Option<Shutdown>) {
    let ended = async {
        match end {
            Some(end) => end.requested().await,
            None => std::future::pending().await,
        }
    };
    let mut ended = pin!(ended);
    let mut connections = Connections::new();
    loop {
        tokio::select! {
            () = accept(&socket, &router, &mut connections) => {}
            () = &mut ended => break,
        }
    }
    drop(socket);
    while connections.tasks.join_next().await.is_some() {}
}

/// The open connections, the oldest first.
struct Connections {
    tasks: JoinSet<()>,
    handles: VecDeque<AbortHandle>,
    /// The failures to accept connections.
    failing: Arc<Episode>,
}

impl Connections {
    fn new() -> Self {
        Self {
            tasks: JoinSet::new(),
            handles: VecDeque::new(),
            failing: Episode::new(
                "the admin listener can't accept connections; trying again".into(),
                "the admin listener is accepting connections again",
            ),
        }
    }

    /// Serves a connection on a task of its own.
    fn open(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.handles.retain(|handle| !handle.is_finished());
        if self.handles.len() >= MAX_CONNECTIONS
            && let Some(oldest) = self.handles.pop_front()
        {
            oldest.abort();
        }
        self.handles.push_back(self.tasks.spawn(connection));
    }
}

async fn accept(socket: &Socket, router: &Arc<Router>, connections: &mut Connections) {
    let router = Arc::clone(router);
    let accepted = match socket {
        Socket::Tcp(tcp) => tcp.accept().await.map(|(stream, peer)| {
            let sender = if peer.ip().to_canonical().is_loopback() {
                Sender::Local
            } else {
                Sender::Remote
            };
            connections.open(connection(stream, router, sender));
        }),
        Socket::Unix(unix) => unix.accept().await.map(|(stream, _)| {
            connections.open(connection(stream, router, Sender::Local));
        }),
    };
    if let Err(error) = accepted {
        connections.failing.note_error(&error);
        sleep(PAUSE).await;
    }
}

async fn connection<S>(stream: S, router: Arc<Router>, sender: Sender)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let router = Arc::clone(&router);
        async move { Ok::<_, Infallible>(router.answer(request, sender).await) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(MAX_FIELDS)
        .max_buf_size(MAX_HEAD);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = sleep(LIFE) => {
            serving.as_mut().graceful_shutdown();
            match timeout(LAST, serving).await {
                Ok(served) => served,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = served {
        debug!("a connection to the admin listener ended: {error}");
    }
}
