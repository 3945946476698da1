use std::time::{Duration, Instant};

use harness::{
    Stack,
    https::get,
    process::free_ports,
    raw::{self, Client},
    wait::until,
};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Returns the status of `/ready` on an admin listener.
async fn ready(port: u16) -> Option<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

#[tokio::test]
async fn process_with_a_stop_delay_is_not_ready_and_serves_new_connections_until_it_is_over() {
    let stack = Stack::new().await;
    let [admin] = free_ports();
    let address = format!("127.0.0.1:{admin}");
    let delay = Duration::from_secs(5);
    let mut server = stack
        .server(&["--stop-delay", "5s", "--admin", &address])
        .await;
    let https = stack.https(server.listening().await);
    let token = stack.bearer();
    let mut kept = Client::sending(&https, raw::get(&token)).await;
    assert_eq!(kept.answer().await.unwrap().status(), 200);
    until(async || ready(admin).await == Some(200)).await;

    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    until(async || ready(admin).await == Some(503)).await;
    assert_eq!(https.send(get(&[])).await.status, 401);
    kept.send(raw::get(&token)).await;
    let answer = kept.answer().await.unwrap();
    assert_eq!(answer.fields("connection"), [""; 0], "{answer:?}");
    assert!(
        begin.elapsed() < delay,
        "the machine is too slow for this test"
    );

    server.logged("listening for another 5s").await;
    assert_eq!(server.ended().await.code(), Some(0));
    assert!(begin.elapsed() >= delay);
}
