//! Tests every bound on what a caller may take, and for how long (conformance P128–P154). A caller
//! over a bound gets the right answer, and other callers are served meanwhile.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Tests the length and the progress of bodies.
mod bodies;
/// Provides a caller that does nothing wrong.
mod caller;
/// Cancels requests that the upstream has not answered.
mod cancelled;
/// Tests handshakes, idle connections, and the number of connections.
mod connections;
/// Tests uploads that are answered before they have come.
mod early;
/// Tests which requests are evicted for those of another source.
mod evicted;
/// Limits the upstream connections that requests have for themselves.
mod exclusive;
/// Tests `100 (Continue)` over HTTP/2.
mod expects;
/// Runs whole floods, each with a good caller next to it.
mod floods;
/// Tests the size, the count and the time of heads.
mod heads;
/// Tests HTTP/2 frame by frame.
mod http2;
/// Sends more requests than the in-flight limit, and more new tokens than a process can verify.
mod load;
/// Tests the warning at start-up about a limit of open files that is too low.
mod open_files;
/// Tests POSTs next to callers whose requests are refused.
mod posts;
/// Tests the rest of a body whose request was answered early.
mod rests;
/// Starts each role that passes requests on.
mod roles;
/// Tests a good caller next to one that takes all it can.
mod shares;
/// Tests answers whose callers read slowly while the process stops.
mod stopping;
/// Tests answers that nobody reads.
mod unread;
/// Keeps many WebSockets open.
mod websockets;

use harness::{
    PATIENCE, Stack,
    frames::{Frame, Frames},
    https::Https,
    process::Process,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

/// A deadline that a test waits for.
const SOON: &str = "300ms";

/// Starts a server without a proxy.
async fn server(args: &[&str]) -> (Stack, Process, Https) {
    let stack = Stack::new().await;
    let server = stack.server(args).await;
    let https = stack.https(server.listening().await);
    (stack, server, https)
}

/// Sends bytes over HTTP/1.1 and reads to the end of the connection.
async fn ask(https: &Https, bytes: &[u8]) -> String {
    let mut tls = https.connect(b"http/1.1").await;
    // The answer and the end may come before all bytes are taken.
    let _ = tls.write_all(bytes).await;
    let _ = tls.flush().await;
    read_to_end(&mut tls).await
}

/// Returns all that comes until the end of the connection, which must come in time.
async fn read_to_end(tls: &mut TlsStream<TcpStream>) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let reading = async {
        while let Ok(n @ 1..) = tls.read(&mut buffer).await {
            bytes.extend(&buffer[..n]);
        }
    };
    timeout(PATIENCE, reading).await.expect("is closed in time");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns the next frame, which must come in time.
async fn next_frame(http2: &mut Frames) -> Frame {
    let next = timeout(PATIENCE, http2.next()).await;
    let next = next.expect("a frame comes in time");
    next.expect("the connection is kept")
}
