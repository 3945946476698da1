//! Connections out of the kernel's queue, also when there is no descriptor for them, and the last of
//! them when a listener is closed.

mod admission;
mod balance;

use std::{io, net::SocketAddr, time::Duration};

use common::backoff::Backoff;
use futures_util::FutureExt;
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tracing::debug;

pub(crate) use self::{
    admission::{Admission, Handshake},
    balance::{Accepted, Balance},
};
use crate::listen::{Listener, Queue};

/// The first and the longest pause after an accept that failed (out of file descriptors, mostly). The
/// longest is what callers wait for a descriptor that something else than a connection of ours freed.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(100));

/// How many connections are still taken from a queue that never gets empty, before it is closed: as
/// many as the kernel lets wait there, mostly (`net.core.somaxconn`).
const LAST: usize = 4096;

/// The next connection. Out of file descriptors, mostly, those who wait do so in the kernel.
pub(crate) async fn accept(
    listener: &TcpListener,
    admission: &Admission,
) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => match ready(accepted) {
                Some(ready) => return ready,
                None => continue,
            },
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => admission.accept_fails(&error),
        }
        let attempt = || listener.accept().now_or_never();
        if let Some(ready) = retry(attempt, admission).await.and_then(ready) {
            return ready;
        }
    }
}

/// Attempts to accept again, after a pause or when a connection of this process ends, until that does
/// not fail. Returns what it accepted, if a caller was there.
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
        // Before the attempt, so that no end after it is missed.
        ended = admission.connection_ended();
        // With an empty queue it would fail as well, and does not: then it is pending.
        match attempt() {
            Some(Err(error)) if !is_of_one_connection(&error) => admission.accept_fails(&error),
            accepted => return accepted?.ok(),
        }
    }
}

/// Closes a listener. Returns the connections that wait in its queue, if the kernel would reset them.
///
/// No other task runs in between, so that the queue is not filled again. Callers that come in these
/// microseconds are reset all the same, and so are those that have sent the first packet of three and
/// not yet the last. With `net.ipv4.tcp_migrate_req=1` the kernel gives them to another listener on the
/// port, if there is one.
pub(crate) fn close(Listener { socket, queue }: Listener) -> Vec<(TcpStream, SocketAddr)> {
    if queue == Queue::Outlives {
        return Vec::new();
    }
    // Asks the kernel: tokio would ask what it has last heard of it.
    let last = socket.into_std().map(|listener| {
        let accepted = std::iter::from_fn(|| match listener.accept() {
            Err(error) if is_of_one_connection(&error) => Some(None),
            accepted => Some(Some(accepted.ok()?)),
        });
        accepted.take(LAST).flatten().collect::<Vec<_>>()
    });
    let last = last.unwrap_or_default().into_iter();
    last.filter_map(|(tcp, peer)| {
        tcp.set_nonblocking(true).ok()?;
        ready((TcpStream::from_std(tcp).ok()?, peer))
    })
    .collect()
}

/// Ready to be served; none if it is gone again.
fn ready((tcp, peer): (TcpStream, SocketAddr)) -> Option<(TcpStream, SocketAddr)> {
    match tcp.set_nodelay(true) {
        Ok(()) => Some((tcp, unmapped(peer))),
        Err(error) => {
            debug!(%peer, %error, "connection ended");
            None
        }
    }
}

/// Failures that the next connection does not share.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionReset)
}

/// An IPv4 caller of a dual-stack socket, as IPv4.
fn unmapped(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

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
    async fn p143_a_descriptor_that_is_free_again_is_used_within_100_ms() {
        let admission = admission();
        for shortage in [1, 50, 1_000, 5_000, 60_000].map(Duration::from_millis) {
            let free = Instant::now() + shortage;
            let attempt = || match Instant::now() < free {
                true => Some(Err(out_of_descriptors())),
                false => Some(Ok("accepted")),
            };
            assert_eq!(retry(attempt, &admission).await, Some("accepted"));
            assert!(free.elapsed() <= BACKOFF.max(), "after {shortage:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn p143_a_connection_that_ends_makes_room_at_once() {
        let admission = admission();
        let source = "192.0.2.1".parse().unwrap();
        let mut entered = admission.enter(source);
        let mut attempts = 0;
        let attempt = || {
            attempts += 1;
            match attempts {
                10 => Some(Ok("accepted")),
                9 => {
                    // It ends on another core in the very moment of the attempt.
                    entered = None;
                    Some(Err(out_of_descriptors()))
                }
                _ => Some(Err(out_of_descriptors())),
            }
        };
        let start = Instant::now();
        assert_eq!(retry(attempt, &admission).await, Some("accepted"));
        // 5, 10, 20, 40, 80 ms, four times 100 ms, and no pause.
        assert_eq!(start.elapsed(), Duration::from_millis(555));
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_queue_and_a_caller_that_left_end_the_attempts() {
        let admission = admission();
        let start = Instant::now();
        assert_eq!(retry(|| None::<io::Result<()>>, &admission).await, None);
        let left = || Some(Err::<(), _>(io::ErrorKind::ConnectionAborted.into()));
        assert_eq!(retry(left, &admission).await, None);
        assert_eq!(start.elapsed(), 2 * BACKOFF.pause(1));
    }

    #[tokio::test]
    async fn who_waits_is_taken_when_a_listener_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut callers = Vec::new();
        for _ in 0..50 {
            // Not tokio's: nothing here has heard of them.
            callers.push(std::net::TcpStream::connect(address).unwrap());
        }
        let taken = close(listener.into());
        let mut peers: Vec<_> = taken.iter().map(|(_, peer)| *peer).collect();
        let mut expected: Vec<_> = callers
            .iter()
            .map(|tcp| tcp.local_addr().unwrap())
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
    async fn who_waits_at_a_passed_socket_is_left_to_the_next_process() {
        // The service manager holds it like this.
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        held.set_nonblocking(true).unwrap();
        let address = held.local_addr().unwrap();
        let passed = || Listener {
            socket: TcpListener::from_std(held.try_clone().unwrap()).unwrap(),
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
