use std::{
    pin::pin,
    process::Stdio,
    time::{Duration, Instant},
};

use harness::{
    PATIENCE, SERVER_ID, Stack, binary,
    frames::{self, Frames},
    https::{Https, get},
    process::{self, Process},
    raw::Client,
};
use http::Version;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{SOON, read_to_end, server};

#[tokio::test]
async fn handshake_that_never_ends_is_cut_off_p138() {
    let (_stack, server, https) = server(&["--handshake-timeout", "2s"]).await;
    let port = server.listening().await;
    // The bytes are none, half of a record's header, and a record that never comes whole.
    let cases = [
        b"" as &[u8],
        b"\x16\x03",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ];
    let mut begun = Vec::new();
    for bytes in cases {
        let mut tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        begun.push(tcp);
    }
    let other = https.send(get(&[])).await.status;
    assert_eq!(other, 401, "others are accepted");
    for (bytes, mut tcp) in cases.into_iter().zip(begun) {
        let end = timeout(PATIENCE, tcp.read(&mut [0]))
            .await
            .expect("is closed in time");
        assert!(matches!(end, Ok(0) | Err(_)), "{bytes:?}");
    }
}

#[tokio::test]
async fn idle_connection_is_closed_p141() {
    let (_stack, _server, https) = server(&["--idle-timeout", SOON, "--body-timeout", SOON]).await;

    let mut http1 = https.connect(b"http/1.1").await;
    http1
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let answer = read_to_end(&mut http1).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "P141: {answer}");

    let mut http2 = Frames::connect(&https, &[]).await;
    http2.send(&frames::request(1, frames::GET, &[])).await;
    let ended = http2.flood(&[]).await;
    assert_eq!(ended.goaway, Some(0), "P142: GOAWAY comes before the end");
    assert_eq!(ended.frames[&frames::HEADERS], 1);
}

#[tokio::test]
async fn idle_connection_is_closed_in_spite_of_pings_p142() {
    let (_stack, _server, https) = server(&["--idle-timeout", SOON, "--body-timeout", SOON]).await;
    let mut http2 = Frames::connect(&https, &[]).await;
    http2.send(&frames::request(1, frames::GET, &[])).await;
    let ping = frames::frame(frames::PING, 0, 0, &[7; 8]);
    let trickling = async {
        while http2.send(&ping).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, trickling)
        .await
        .expect("is closed although it pings");
}

#[tokio::test]
async fn quiet_http2_connection_is_pinged_p142() {
    let (_stack, _server, https) = server(&[]).await;
    let mut http2 = Frames::connect(&https, &[]).await;
    http2.send(&frames::request(1, frames::GET, &[])).await;
    let pinged = async {
        loop {
            let frame = http2.next().await.expect("is kept");
            if frame.kind == frames::PING && frame.flags == 0 {
                break;
            }
        }
    };
    timeout(PATIENCE, pinged).await.expect("is pinged in time");
}

#[tokio::test]
async fn connections_over_the_bound_wait_and_are_served_when_one_ends_p143() {
    let (_stack, _server, https) = server(&[
        "--max-connections",
        "2",
        "--max-connections-per-address",
        "9",
    ])
    .await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut client = Client::sending(&https, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.answer().await.unwrap().status(), 401);
        kept.push(client);
    }
    let mut third = pin!(https.send(get(&[])));
    let waiting = timeout(Duration::from_millis(500), &mut third).await;
    assert!(waiting.is_err(), "it is answered over the bound");
    drop(kept.pop());
    let answer = timeout(PATIENCE, third).await.expect("is served in time");
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn connections_over_the_bound_wait_no_longer_than_a_handshake_p143() {
    let (_stack, _server, https) = server(&[
        "--max-connections",
        "1",
        "--max-connections-per-address",
        "9",
        "--handshake-timeout",
        "2s",
    ])
    .await;
    let _kept = https.connect(b"http/1.1").await;
    let mut second = https.connect(b"http/1.1").await;
    assert_eq!(read_to_end(&mut second).await, "");
}

#[tokio::test]
async fn one_address_gets_only_its_share_p143() {
    let (_stack, server, https) = server(&["--max-connections", "6"]).await;
    let _kept = [
        https.connect(b"h2").await,
        https.connect(b"http/1.1").await,
        https.connect(b"h2").await,
    ];
    assert!(
        https.try_connect(b"h2").await.is_err(),
        "its share is half of 6"
    );
    server
        .logged("as many connections as max-connections-per-address")
        .await;

    let other = https.from("127.0.0.2");
    for version in [Version::HTTP_11, Version::HTTP_2] {
        assert_eq!(
            other.send_over(version, get(&[])).await.status,
            401,
            "others are served"
        );
    }
}

#[tokio::test]
async fn handshakes_over_the_bound_take_the_place_of_the_oldest_p138_p143() {
    // A second core might accept half-open connections after the good one.
    let (_stack, server, https) = server(&["--max-handshakes", "3", "--cores", "1"]).await;
    let port = server.listening().await;
    let mut half_open = Vec::new();
    for _ in 0..3 {
        half_open.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    assert_eq!(https.send(get(&[])).await.status, 401);
    let end = timeout(PATIENCE, half_open[0].read(&mut [0]))
        .await
        .expect("is closed");
    assert!(matches!(end, Ok(0) | Err(_)));
    server
        .logged("more TLS handshakes than max-handshakes")
        .await;
}

/// Starts a server that may open this many files, although it raises its limit.
fn with_open_files(stack: &Stack, files: usize, args: &[&str]) -> Process {
    let script = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
    let mut command = process::in_shell(&script, &binary("server"), &stack.agent.endpoint(), args);
    command.stdout(Stdio::null());
    Process::spawn(command)
}

#[tokio::test]
async fn without_descriptors_accepting_waits_and_continues_p143() {
    let stack = Stack::new().await;
    let server = with_open_files(&stack, 40, &["--listen", "127.0.0.1:0", "--cores", "1"]);
    let port = server.listening().await;
    server
        .logged("--max-connections 10000, --max-handshakes 1000 allow up to 11100 open files")
        .await;
    let mut crowd = Vec::new();
    for _ in 0..60 {
        crowd.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    server
        .logged("cannot accept connections; trying again")
        .await;
    let before = server.cpu_time();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = server.cpu_time() - before;
    assert!(
        used < Duration::from_millis(300),
        "it used {used:?} of one second"
    );

    let failed = "cannot accept connections; trying again";
    let lines = server.log();
    let told = lines.iter().filter(|line| line.contains(failed)).count();
    assert_eq!(told, 1, "it is logged once");

    drop(crowd);
    server.logged("accepting connections again").await;
    let https = stack.https(port);
    assert_eq!(
        https.send(get(&[])).await.status,
        401,
        "{SERVER_ID} serves again"
    );
}

#[tokio::test]
async fn caller_is_accepted_as_soon_as_there_are_descriptors_p143() {
    let stack = Stack::new().await;
    let server = with_open_files(&stack, 40, &["--listen", "127.0.0.1:0", "--cores", "1"]);
    let port = server.listening().await;
    let https = stack.https(port);
    for shortage in [Duration::from_millis(100), Duration::from_millis(2400)] {
        // The other tests may delay one of the rounds.
        let mut waited = [Duration::ZERO; 3];
        for waited in &mut waited {
            *waited = wait_after(shortage, &https).await;
        }
        let least = waited.iter().min().unwrap();
        assert!(
            *least < Duration::from_millis(500),
            "{waited:?} after {shortage:?}"
        );
    }
}

/// Takes all descriptors of a server for this time. Returns how long a caller then waits.
async fn wait_after(shortage: Duration, https: &Https) -> Duration {
    let mut crowd = Vec::new();
    for _ in 0..60 {
        let connecting = TcpStream::connect(("127.0.0.1", https.port()));
        crowd.push(connecting.await.unwrap());
    }
    let https = https.clone();
    let waiting = tokio::spawn(async move { https.send(get(&[])).await.status });
    tokio::time::sleep(shortage).await;
    assert!(!waiting.is_finished());
    let free = Instant::now();
    drop(crowd);
    assert_eq!(waiting.await.unwrap(), 401);
    free.elapsed()
}
