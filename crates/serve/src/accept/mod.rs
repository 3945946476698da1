//! Connections accepted from the kernel's queue.
//!
//! Accepting continues when the process is out of file descriptors. The queue is emptied when a
//! listener is closed.

mod admission;
mod balance;

use std::{io, net::SocketAddr, time::Duration};

use common::backoff::Backoff;
use futures_util::FutureExt;
use tokio::time::sleep;
use tokio_util::either::Either;
use tracing::debug;

pub(crate) use self::{
    admission::{Admission, HandshakePermit},
    balance::{Accepted, Balance},
};
use crate::{
    listen::{Listener, Queue, Socket, StdSocket},
    stream::{PeerAddress, StdStream, Stream, from_std, prepare},
};

/// The pauses after a failure to accept, usually because the process is out of file descriptors. A
/// connection that ends cuts the pause short. Other descriptors that are closed are noticed after the
/// pause.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(100));

/// The largest number of connections that are accepted when a listener is closed. It is the usual
/// length of the kernel's queue (`net.core.somaxconn`).
const MAX_LAST: usize = 4096;

/// Accepts the next connection. While the process is out of file descriptors, callers wait in the
/// kernel's queue.
pub(crate) async fn accept(listener: &Socket, admission: &Admission) -> (Stream, PeerAddress) {
    loop {
        match listener.accept().await {
            Ok(accepted) => match ready(accepted) {
                Some(ready) => return ready,
                None => continue,
            },
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => admission.accept_failed(&error),
        }
        let attempt = || listener.accept().now_or_never();
        if let Some(ready) = retry(attempt, admission).await.and_then(ready) {
            return ready;
        }
    }
}

/// Attempts to accept again after a pause, or when a connection of this process ends, until an attempt
/// does not fail. Returns the connection, or `None` if no caller waits.
async fn retry<T>(
    mut attempt: impl FnMut() -> Option<io::Result<T>>,
    admission: &Admission,
) -> Option<T> {
    let mut failures = 0;
    let mut ended = admission.connection_ended();
    loop {
        failures += 1;
        tokio::select! {
            () = sleep(BACKOFF.pause(failures)) => {}
            () = ended => {}
        }
        // The future is created before the attempt, so that it does not miss a later end.
        ended = admission.connection_ended();
        // While there is no descriptor, an empty queue also fails. A pending attempt therefore means
        // that a descriptor is free.
        match attempt() {
            Some(Err(error)) if !is_of_one_connection(&error) => admission.accept_failed(&error),
            accepted => return accepted?.ok(),
        }
    }
}

/// Closes a listener. Returns the connections that wait in its queue, if the kernel would reset them.
///
/// No other task of the core runs before the socket is closed. Connections that arrive in these
/// microseconds are reset, and so are those whose TCP handshake is not complete. With
/// `net.ipv4.tcp_migrate_req=1` the kernel moves them to another listener on the port, if there is one.
pub(crate) fn close(Listener { socket, queue }: Listener) -> Vec<(Stream, PeerAddress)> {
    if queue == Queue::Outlives {
        return Vec::new();
    }
    // Accepts without tokio, which would use the readiness that it was last told.
    let last = socket.into_std().map(|listener| {
        let accepted = std::iter::from_fn(|| match accept_now(&listener) {
            Err(error) if is_of_one_connection(&error) => Some(None),
            accepted => Some(Some(accepted.ok()?)),
        });
        accepted.take(MAX_LAST).flatten().collect::<Vec<_>>()
    });
    let last = last.unwrap_or_default().into_iter();
    last.filter_map(|(stream, peer)| {
        let stream = from_std(stream).ok()?;
        let peer = match (&stream, peer) {
            (_, Some(peer)) => peer,
            (Either::Right(unix), None) => PeerAddress::User(unix.peer_cred().ok()?.uid()),
            (Either::Left(_), None) => return None,
        };
        ready((stream, peer))
    })
    .collect()
}

/// Accepts a connection that waits. A Unix socket's peer is not known yet.
fn accept_now(listener: &StdSocket) -> io::Result<(StdStream, Option<PeerAddress>)> {
    match listener {
        StdSocket::Tcp(listener) => {
            let (tcp, peer) = listener.accept()?;
            tcp.set_nonblocking(true)?;
            Ok((Either::Left(tcp), Some(peer.into())))
        }
        StdSocket::Unix(listener) => {
            let (unix, _) = listener.accept()?;
            unix.set_nonblocking(true)?;
            Ok((Either::Right(unix), None))
        }
    }
}

/// Prepares a connection to be served. Returns `None` if it has ended.
fn ready((stream, peer): (Stream, PeerAddress)) -> Option<(Stream, PeerAddress)> {
    match prepare(&stream) {
        Ok(()) => Some((stream, unmapped(peer))),
        Err(error) => {
            debug!(%peer, %error, "connection ended");
            None
        }
    }
}

/// Returns whether a failure concerns one connection, so that the next one can be accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionReset)
}

/// Converts an IPv4 address that a dual-stack socket reports as IPv6 back to IPv4.
fn unmapped(peer: PeerAddress) -> PeerAddress {
    match peer {
        PeerAddress::Ip(peer) => SocketAddr::new(peer.ip().to_canonical(), peer.port()).into(),
        PeerAddress::User(_) => peer,
    }
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, time::Instant};

    use super::*;
    use crate::limits::Limits;

    /// `EMFILE` on Linux.
    const OUT_OF_DESCRIPTORS: i32 = 24;

    fn admission() -> Admission {
        Admission::new(&Limits::new(9))
    }

    fn out_of_descriptors() -> io::Error {
        io::Error::from_raw_os_error(OUT_OF_DESCRIPTORS)
    }

    #[tokio::test(start_paused = true)]
    async fn a_descriptor_that_is_free_again_is_used_within_100_ms_p143() {
        let admission = admission();
        for shortage in [1, 50, 1_000, 5_000, 60_000].map(Duration::from_millis) {
            let free = Instant::now() + shortage;
            let attempt = || {
                if Instant::now() < free {
                    Some(Err(out_of_descriptors()))
                } else {
                    Some(Ok("accepted"))
                }
            };
            assert_eq!(retry(attempt, &admission).await, Some("accepted"));
            assert!(free.elapsed() <= BACKOFF.max(), "after {shortage:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_ends_makes_room_at_once_p143() {
        let admission = admission();
        let source = "192.0.2.1".parse().unwrap();
        let mut permits = admission.admit(source);
        let mut attempts = 0;
        let attempt = || {
            attempts += 1;
            match attempts {
                10 => Some(Ok("accepted")),
                9 => {
                    // The connection ends on another core during the attempt.
                    permits = None;
                    Some(Err(out_of_descriptors()))
                }
                _ => Some(Err(out_of_descriptors())),
            }
        };
        let start = Instant::now();
        assert_eq!(retry(attempt, &admission).await, Some("accepted"));
        // The pauses are 5, 10, 20, 40 and 80 ms, four times 100 ms, and none.
        assert_eq!(start.elapsed(), Duration::from_millis(555));
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_queue_or_an_aborted_connection_ends_the_attempts() {
        let admission = admission();
        let start = Instant::now();
        assert_eq!(retry(|| None::<io::Result<()>>, &admission).await, None);
        let left = || Some(Err::<(), _>(io::ErrorKind::ConnectionAborted.into()));
        assert_eq!(retry(left, &admission).await, None);
        assert_eq!(start.elapsed(), 2 * BACKOFF.pause(1));
    }

    #[tokio::test]
    async fn waiting_connections_are_accepted_when_a_listener_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut callers = Vec::new();
        for _ in 0..50 {
            // The standard library connects, so that tokio is not told of the connections.
            callers.push(std::net::TcpStream::connect(address).unwrap());
        }
        let taken = close(listener.into());
        let mut peers: Vec<_> = taken.iter().map(|(_, peer)| *peer).collect();
        let mut expected: Vec<_> = callers
            .iter()
            .map(|tcp| tcp.local_addr().unwrap().into())
            .collect();
        peers.sort();
        expected.sort();
        assert_eq!(peers, expected);
        assert!(
            std::net::TcpStream::connect(address).is_err(),
            "it is closed"
        );
    }

    #[tokio::test]
    async fn waiting_connections_of_a_passed_socket_stay_for_the_next_process() {
        // The service manager holds the socket like this.
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        held.set_nonblocking(true).unwrap();
        let address = held.local_addr().unwrap();
        let passed = || Listener {
            socket: Socket::from_std(StdSocket::Tcp(held.try_clone().unwrap())).unwrap(),
            queue: Queue::Outlives,
        };
        let (one, two) = (passed(), passed());
        let callers = [(); 50].map(|()| std::net::TcpStream::connect(address).unwrap());
        assert!(close(one).is_empty());
        assert!(close(two).is_empty());
        let next = std::iter::from_fn(|| held.accept().ok());
        assert_eq!(next.count(), callers.len());
        assert!(std::net::TcpStream::connect(address).is_ok());
    }
}
