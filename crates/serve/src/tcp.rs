//! The options of TCP connections, in both directions.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// The time without bytes after which the kernel probes the peer, the pause between probes, and their
/// number. A peer that is gone is noticed within two minutes, also on a stream that is silent for long.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;

/// Sets the options of a connection: small writes leave at once, and a dead peer is noticed.
///
/// # Errors
/// Fails when the connection has ended.
pub fn set_options(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let keep_alive = TcpKeepalive::new()
        .with_time(KEEP_ALIVE_AFTER)
        .with_interval(PROBE_EVERY)
        .with_retries(PROBES);
    SockRef::from(tcp).set_tcp_keepalive(&keep_alive)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_is_probed_and_does_not_wait_for_more_to_send_h007() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        set_options(&tcp).unwrap();
        let socket = SockRef::from(&tcp);
        assert!(tcp.nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEP_ALIVE_AFTER);
    }
}
