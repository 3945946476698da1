//! From the listening socket to answered calls: connections are bounded, the
//! caller's credentials are taken as it connects, and it has to speak soon.

use std::collections::HashMap;
use std::io::{self, Cursor};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::attest::{Attestor, Peer};
use crate::header::RequireHeader;
use crate::lock::lock;
use crate::pb::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use crate::service::WorkloadApi;
use crate::state::{Phase, Snapshot, State};

/// What an HTTP/2 client sends first (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long it may take for that.
const PREFACE_DEADLINE: Duration = Duration::from_secs(10);
const MAX_CONNECTIONS: usize = 800;
/// Less than all, so that one user cannot shut out the others.
const MAX_CONNECTIONS_PER_UID: usize = 500;
const MAX_STREAMS: u32 = 100;
const MAX_HEADERS: u32 = 16 << 10;
/// How often a silent peer is asked whether it is there, and how long it may take to answer.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_DEADLINE: Duration = Duration::from_secs(20);
/// Waits after a failed accept, for instance when file descriptors run out.
const MIN_BACKOFF: Duration = Duration::from_millis(5);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// Serves until the state says stop, and then until the last connection has ended.
pub(crate) async fn serve(listener: UnixListener, state: Arc<State>, attestor: Arc<Attestor>) {
    let mut connections = JoinSet::new();
    let users = Users::default();
    let mut stop = pin!(stopped(state.subscribe()));
    let mut backoff = MIN_BACKOFF;
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    backoff = MIN_BACKOFF;
                    if connections.len() < MAX_CONNECTIONS {
                        connections.spawn(connection(stream, state.clone(), attestor.clone(), users.clone()));
                    } else {
                        tracing::warn!("connection refused: {MAX_CONNECTIONS} are open");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// One connection from its credentials to its end.
async fn connection(stream: UnixStream, state: Arc<State>, attestor: Arc<Attestor>, users: Users) {
    let peer = match Peer::of(&stream) {
        Ok(peer) => peer,
        Err(error) => {
            tracing::warn!(%error, "connection refused: no credentials");
            return;
        }
    };
    let Some(_place) = users.enter(peer.uid) else {
        tracing::warn!(
            uid = peer.uid,
            "connection refused: {MAX_CONNECTIONS_PER_UID} of this user are open"
        );
        return;
    };
    let pid = peer.pid;
    let opened = tokio::select! {
        opened = timeout(PREFACE_DEADLINE, open(stream)) => opened,
        () = stopped(state.subscribe()) => return,
    };
    let result = match opened {
        Ok(Ok(io)) => {
            let api = WorkloadApi {
                state,
                attestor,
                peer,
            };
            http2(io, api).await.map_err(|error| error.to_string())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no HTTP/2 preface in {PREFACE_DEADLINE:?}")),
    };
    if let Err(error) = result {
        tracing::debug!(pid, error, "connection ended");
    }
}

/// Waits until the peer has shown that it speaks HTTP/2 without TLS, and gives
/// the connection back as if nothing had been read.
async fn open(stream: UnixStream) -> io::Result<impl AsyncRead + AsyncWrite + Unpin> {
    let (mut read, write) = stream.into_split();
    let mut preface = [0; PREFACE.len()];
    read.read_exact(&mut preface).await?;
    if preface != *PREFACE {
        return Err(io::Error::other("this is not HTTP/2"));
    }
    Ok(tokio::io::join(Cursor::new(preface).chain(read), write))
}

/// What answers the requests of one connection.
pub(crate) fn service(api: WorkloadApi) -> RequireHeader<SpiffeWorkloadApiServer<WorkloadApi>> {
    RequireHeader {
        peer: api.peer.clone(),
        service: SpiffeWorkloadApiServer::new(api),
    }
}

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

async fn stopped(mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    // An error means that the state is gone, which is a stop too.
    let _ = snapshots
        .wait_for(|snapshot| snapshot.phase == Phase::Stopped)
        .await;
}

/// How many connections each user has.
#[derive(Clone, Default)]
struct Users(Arc<Mutex<HashMap<u32, usize>>>);

/// One of a user's connections; its end makes room for another.
struct Place {
    users: Users,
    uid: u32,
}

impl Users {
    fn enter(&self, uid: u32) -> Option<Place> {
        let mut counts = lock(&self.0);
        let count = counts.entry(uid).or_default();
        if *count == MAX_CONNECTIONS_PER_UID {
            return None;
        }
        *count += 1;
        Some(Place {
            users: self.clone(),
            uid,
        })
    }
}

impl Drop for Place {
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
    use super::*;

    #[test]
    fn w147_one_user_cannot_shut_out_another() {
        let users = Users::default();
        let mut places: Vec<_> = (0..MAX_CONNECTIONS_PER_UID)
            .map(|_| users.enter(1).unwrap())
            .collect();
        assert!(users.enter(1).is_none());
        assert!(users.enter(2).is_some());
        places.pop();
        assert!(users.enter(1).is_some());
    }

    fn api() -> (Arc<State>, Arc<Attestor>) {
        let entry = "spiffe://example.org/a=unix:uid:1".parse().unwrap();
        let config = crate::Config::new("/unused", vec![entry]);
        let attestor = Attestor::new(&config.entries);
        (Arc::new(State::new(config).unwrap()), Arc::new(attestor))
    }

    #[tokio::test(start_paused = true)]
    async fn w148_a_connection_that_says_nothing_is_closed() {
        for sent in [
            &b""[..],
            b"PRI * HTTP/2.0\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n",
        ] {
            let (state, attestor) = api();
            let (ours, theirs) = UnixStream::pair().unwrap();
            theirs.try_write(sent).unwrap();
            let began = tokio::time::Instant::now();
            connection(ours, state, attestor, Users::default()).await;
            assert!(began.elapsed() <= PREFACE_DEADLINE + Duration::from_secs(1));
            drop(theirs);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn w072_a_peer_that_answers_no_ping_is_dead() {
        let (state, attestor) = api();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut theirs, PREFACE)
            .await
            .unwrap();
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        tokio::io::AsyncWriteExt::write_all(&mut theirs, &settings)
            .await
            .unwrap();
        let began = tokio::time::Instant::now();
        connection(ours, state, attestor, Users::default()).await;
        let lived = began.elapsed();
        assert!(
            lived >= PING_EVERY && lived <= PING_EVERY + PING_DEADLINE * 2,
            "{lived:?}"
        );
    }
}
