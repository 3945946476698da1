//! Connections out of the kernel's queue, also when there is no descriptor for them, and the last of
//! them when a listener is closed.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::FutureExt;
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tracing::debug;

use super::Admission;

/// The first and the longest pause after an accept that failed (out of file descriptors, mostly).
const BACKOFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// How many connections are still taken from a queue that never gets empty, before it is closed: as
/// many as the kernel lets wait there, mostly (`net.core.somaxconn`).
const LAST: usize = 4096;

/// The next connection. Out of file descriptors, mostly, those who wait do so in the kernel.
pub(super) async fn accept(
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
        if let Some(ready) = retry(listener, admission).await {
            return ready;
        }
    }
}

/// Tries again until it does not fail; what it got, if somebody was there.
async fn retry(listener: &TcpListener, admission: &Admission) -> Option<(TcpStream, SocketAddr)> {
    let mut backoff = BACKOFF.0;
    loop {
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
        // With an empty queue it would fail as well, and does not: then it is pending.
        match listener.accept().now_or_never() {
            Some(Err(error)) if !is_of_one_connection(&error) => admission.accept_fails(&error),
            accepted => return ready(accepted?.ok()?),
        }
    }
}

/// Closes a listener: first takes who waits in its queue, since the kernel resets those.
///
/// No other task runs in between, so that the queue is not filled again. Who comes in these
/// microseconds is reset all the same, and so is who has sent the first packet of three and not yet
/// the last; with `net.ipv4.tcp_migrate_req=1` the kernel gives them to another listener on the
/// port, if there is one.
pub(super) fn close(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    // Asks the kernel: tokio would ask what it has last heard of it.
    let last = listener.into_std().map(|listener| {
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
    use super::*;

    #[tokio::test]
    async fn who_waits_is_taken_when_a_listener_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut callers = Vec::new();
        for _ in 0..50 {
            // Not tokio's: nothing here has heard of them.
            callers.push(std::net::TcpStream::connect(address).unwrap());
        }
        let taken = close(listener);
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
}
