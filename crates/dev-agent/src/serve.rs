//! Connections from the listening socket to their end. They are bounded, the caller's credentials
//! are read when it connects, and the HTTP/2 preface must come soon.

use std::{
    collections::HashMap,
    io::{self, Cursor},
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use crate::{
    attest::{Attestor, PeerProcess},
    backoff,
    header::RequireHeader,
    lock::lock,
    pb::spiffe_workload_api_server::SpiffeWorkloadApiServer,
    requests::Requests,
    service::WorkloadApi,
    state::{Snapshot, State},
    status::Phase,
    throttle::Throttle,
};

/// The first bytes of an HTTP/2 client (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest wait for the preface.
const PREFACE_DEADLINE: Duration = Duration::from_secs(10);
const MAX_CONNECTIONS: usize = 800;
/// The most connections of one user, fewer than all, so that a user can't exclude the others.
const MAX_CONNECTIONS_PER_UID: usize = 500;
const MAX_STREAMS: u32 = 100;
const MAX_HEADERS: u32 = 16 << 10;
/// The time between pings to a silent peer, and the time for its answer.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_DEADLINE: Duration = Duration::from_secs(20);
/// The waits after a failed accept, for instance when file descriptors run out.
const MIN_BACKOFF: Duration = Duration::from_millis(5);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// Serves until the agent stops, and then until the last connection has ended.
pub(crate) async fn serve(listener: UnixListener, state: Arc<State>, attestor: Arc<Attestor>) {
    let mut stop = pin!(stopped(state.subscribe()));
    let shared = Arc::new(Shared::new(state, attestor));
    let mut connections = JoinSet::new();
    let mut failures = 0_u32;
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    failures = 0;
                    if connections.len() < MAX_CONNECTIONS {
                        connections.spawn(connection(stream, Arc::clone(&shared)));
                    } else {
                        let refused = || warn!("connection refused: {MAX_CONNECTIONS} are open");
                        shared.full.log(refused);
                    }
                }
                Err(error) => {
                    shared.accept_failures.log(|| warn!(%error, "cannot accept"));
                    failures = failures.saturating_add(1);
                    sleep(backoff::pause(failures, MIN_BACKOFF, MAX_BACKOFF)).await;
                }
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// The parts that all connections of a listening socket share.
struct Shared {
    state: Arc<State>,
    attestor: Arc<Attestor>,
    users: UserConnections,
    /// Bounds the log lines about connections over the total.
    full: Throttle,
    /// Bounds the log lines about connections without credentials.
    unknown: Throttle,
    /// Bounds the log lines about users with too many connections.
    over_share: Throttle,
    /// Bounds the log lines about connections that could not be accepted.
    accept_failures: Throttle,
}

impl Shared {
    fn new(state: Arc<State>, attestor: Arc<Attestor>) -> Self {
        Self {
            state,
            attestor,
            users: UserConnections::default(),
            full: Throttle::default(),
            unknown: Throttle::default(),
            over_share: Throttle::default(),
            accept_failures: Throttle::default(),
        }
    }

    /// Returns the process at the other end, and the permit of its user. Refuses a user with too many
    /// connections.
    fn admit(&self, stream: &UnixStream) -> Option<(PeerProcess, UserPermit)> {
        let peer = PeerProcess::of(stream).inspect_err(|error| {
            let refused = || warn!(%error, "connection refused: no credentials");
            self.unknown.log(refused);
        });
        let peer = peer.ok()?;
        let permit = self.users.admit(peer.uid);
        if permit.is_none() {
            let (uid, max) = (peer.uid, MAX_CONNECTIONS_PER_UID);
            let refused = || warn!(uid, "connection refused: {max} of this user are open");
            self.over_share.log(refused);
        }
        Some((peer, permit?))
    }
}

/// Serves one connection from its credentials to its end.
async fn connection(stream: UnixStream, shared: Arc<Shared>) {
    let Some((peer, _permit)) = shared.admit(&stream) else {
        return;
    };
    let pid = peer.pid;
    let opened = tokio::select! {
        opened = timeout(PREFACE_DEADLINE, open(stream)) => opened,
        () = stopped(shared.state.subscribe()) => return,
    };
    let result = match opened {
        Ok(Ok(io)) => {
            let api = WorkloadApi {
                state: Arc::clone(&shared.state),
                attestor: Arc::clone(&shared.attestor),
                peer,
            };
            http2(io, api).await.map_err(|error| error.to_string())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no HTTP/2 preface in {PREFACE_DEADLINE:?}")),
    };
    if let Err(error) = result {
        debug!(pid, error, "connection ended");
    }
}

/// Waits for the preface of HTTP/2 without TLS. Returns a stream that begins with the preface
/// again, and continues with requests for `localhost`.
async fn open(stream: UnixStream) -> io::Result<impl AsyncRead + AsyncWrite + Unpin> {
    let (mut read, write) = stream.into_split();
    let mut preface = [0; PREFACE.len()];
    read.read_exact(&mut preface).await?;
    if preface != *PREFACE {
        return Err(io::Error::other("this is not HTTP/2"));
    }
    let read = Cursor::new(preface).chain(Requests::new(read));
    Ok(tokio::io::join(read, write))
}

/// Returns the service that answers the requests of one connection.
pub(crate) fn service(api: WorkloadApi) -> RequireHeader<SpiffeWorkloadApiServer<WorkloadApi>> {
    RequireHeader {
        peer: api.peer.clone(),
        service: SpiffeWorkloadApiServer::new(api),
    }
}

/// Serves HTTP/2 until the connection ends, and drains it when the agent stops.
async fn http2(
    io: impl AsyncRead + AsyncWrite + Unpin + 'static,
    api: WorkloadApi,
) -> hyper::Result<()> {
    let stop = stopped(api.state.subscribe());
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_DEADLINE)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(service(api)));
    let mut connection = pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return result,
        () = stop => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// Waits until the agent stops.
async fn stopped(mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    // An error means that the state was dropped, which is a stop too.
    let _ = snapshots
        .wait_for(|snapshot| snapshot.phase == Phase::Stopped)
        .await;
}

/// The number of connections of each user.
#[derive(Clone, Default)]
struct UserConnections(Arc<Mutex<HashMap<u32, usize>>>);

/// The right to be counted as a connection of the user. Dropping it frees it.
struct UserPermit {
    users: UserConnections,
    uid: u32,
}

impl UserConnections {
    /// Counts a connection of `uid`, or returns `None` if the user has too many.
    fn admit(&self, uid: u32) -> Option<UserPermit> {
        let mut counts = lock(&self.0);
        let count = counts.entry(uid).or_default();
        if *count == MAX_CONNECTIONS_PER_UID {
            return None;
        }
        *count += 1;
        Some(UserPermit {
            users: self.clone(),
            uid,
        })
    }
}

impl Drop for UserPermit {
    fn drop(&mut self) {
        let mut counts = lock(&self.users.0);
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
        }
        counts.retain(|_, count| *count > 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Seek;

    use super::*;

    #[test]
    fn a_user_with_too_many_connections_does_not_exclude_another_w147() {
        let users = UserConnections::default();
        let mut permits: Vec<_> = (0..MAX_CONNECTIONS_PER_UID)
            .map(|_| users.admit(1).unwrap())
            .collect();
        assert!(users.admit(1).is_none());
        assert!(users.admit(2).is_some());
        permits.pop();
        assert!(users.admit(1).is_some());
    }

    fn shared() -> Arc<Shared> {
        let entry = "spiffe://example.org/a=unix:uid:1".parse().unwrap();
        let config = crate::Config::new("/unused", vec![entry]);
        let attestor = Attestor::new(&config.entries);
        let state = State::new(config).unwrap();
        Arc::new(Shared::new(Arc::new(state), Arc::new(attestor)))
    }

    #[tokio::test(start_paused = true)]
    async fn refused_connections_of_a_user_are_logged_once_a_second() {
        let log = Arc::new(tempfile::tempfile().unwrap());
        let subscriber = tracing_subscriber::fmt().with_writer(Arc::clone(&log));
        let _guard = tracing::subscriber::set_default(subscriber.finish());
        let shared = shared();
        let uid = nix::unistd::getuid().as_raw();
        let permits = (0..MAX_CONNECTIONS_PER_UID).map(|_| shared.users.admit(uid).unwrap());
        let _permits: Vec<_> = permits.collect();
        for _ in 0..15 {
            let (ours, _theirs) = UnixStream::pair().unwrap();
            connection(ours, Arc::clone(&shared)).await;
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        (&*log).rewind().unwrap();
        let log = io::read_to_string(&*log).unwrap();
        assert_eq!(log.matches("500 of this user are open").count(), 2, "{log}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_preface_is_closed_w148() {
        for sent in [
            &b""[..],
            b"PRI * HTTP/2.0\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n",
        ] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            theirs.try_write(sent).unwrap();
            let began = tokio::time::Instant::now();
            connection(ours, shared()).await;
            assert!(began.elapsed() <= PREFACE_DEADLINE + Duration::from_secs(1));
            drop(theirs);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_answers_no_ping_is_disconnected_w072() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut theirs, PREFACE)
            .await
            .unwrap();
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        tokio::io::AsyncWriteExt::write_all(&mut theirs, &settings)
            .await
            .unwrap();
        let began = tokio::time::Instant::now();
        connection(ours, shared()).await;
        let lived = began.elapsed();
        assert!(
            lived >= PING_EVERY && lived <= PING_EVERY + PING_DEADLINE * 2,
            "{lived:?}"
        );
    }
}
