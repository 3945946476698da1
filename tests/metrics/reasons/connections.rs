use harness::{SERVER_ID, Stack, https::get, metrics::Page, upstream::HoldingUpstream};
use nix::sys::signal::Signal;
use serve::reason::ConnectionReason;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::Watched;

/// Waits until the metrics count a connection with this reason once, and the log has it.
async fn ended(watched: &Watched, reason: ConnectionReason) {
    let counted = format!("spiffe_handshake_failures_total{{reason=\"{reason}\"}}");
    Page::wait_for(&watched.admin, &counted, 1.0).await;
    watched.process.logged(&format!("reason={reason}")).await;
}

async fn connect(watched: &Watched) -> TcpStream {
    let address = ("127.0.0.1", watched.https.port());
    TcpStream::connect(address).await.unwrap()
}

#[tokio::test]
async fn peer_without_tls_is_counted_as_tls() {
    let stack = Stack::new().await;
    let server = Watched::start(&stack, "server", &[]).await;
    let mut peer = connect(&server).await;
    peer.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    ended(&server, ConnectionReason::Tls).await;
}

#[tokio::test]
async fn handshakes_over_the_limit_are_counted_as_shed() {
    let stack = Stack::new().await;
    // Both cores share the limit, but each accepts in an order of its own.
    let args = ["--max-handshakes", "2", "--cores", "1"];
    let server = Watched::start(&stack, "server", &args).await;
    let half_open = [connect(&server).await, connect(&server).await];
    Page::wait_for(&server.admin, "spiffe_handshakes_open", 2.0).await;
    assert_eq!(server.https.send(get(&[])).await.status, 401);
    ended(&server, ConnectionReason::MaxHandshakes).await;
    let page = Page::of(&server.admin).await;
    assert_eq!(page.at("spiffe_shed_total{cause=\"max_handshakes\"}"), 1.0);
    drop(half_open);
}

#[tokio::test]
async fn handshake_that_a_stop_ends_is_counted_as_stopping() {
    let stack = Stack::new().await;
    let slow = HoldingUpstream::new(&stack).await;
    let url = format!("https://localhost:{}", slow.port);
    let args = ["--upstream", &url, "--upstream-id", SERVER_ID];
    let mut server = Watched::start(&stack, "server", &args).await;
    let https = server.https.clone();
    let token = stack.token(|_| ());
    let held = tokio::spawn(async move { https.status(&token).await });
    slow.arrived(1).await;
    let _half_open = connect(&server).await;
    Page::wait_for(&server.admin, "spiffe_handshakes_open", 1.0).await;
    server.process.signal(Signal::SIGTERM);
    ended(&server, ConnectionReason::Stopping).await;
    let page = Page::of(&server.admin).await;
    assert_eq!(page.at("spiffe_readiness{state=\"not_ready\"}"), 1.0);
    slow.release(1);
    assert_eq!(held.await.unwrap(), 200);
    assert!(server.process.ended().await.success());
}
