use std::process::Stdio;

use http::Version;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr},
    time::timeout,
};

use harness::{PATIENCE, Stack, binary, https::get, process};

#[tokio::test]
async fn logs_can_be_json() {
    let stack = Stack::new().await;
    let server = stack.server(&["--log-format", "json"]).await;
    let token = format!("Bearer {}", stack.token(|_| ()));
    let port = server.listening().await;
    stack
        .https(port)
        .send(get(&[("authorization", &token)]))
        .await;
    let line: serde_json::Value =
        serde_json::from_str(&server.logged("Request received").await).unwrap();
    assert_eq!(line["caller"], "spiffe://example.org/client");
}

/// A server that logs everything, and whose log is read by the test alone.
struct Server {
    process: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Server {
    /// Has answered so much that neither the pipe nor the buffer holds the lines, and nobody read.
    async fn unread(stack: &Stack) -> Self {
        let args = ["--listen", "127.0.0.1:0", "--cores", "1"];
        let mut command = process::command(&binary("server"), &stack.agent.endpoint(), &args);
        command.env("RUST_LOG", "trace").stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut server = Self { process, log };
        let port = process::port(&server.line_with(process::LISTENING).await);
        let https = stack.https(port);
        for _ in 0..150 {
            // At this level HTTP/2 has some hundred lines to say of each.
            let answer = https.send_over(Version::HTTP_2, get(&[])).await;
            assert_eq!(answer.status, 401);
        }
        server
    }

    /// Reads on to a line with `text`.
    async fn line_with(&mut self, text: &str) -> String {
        let reading = async {
            loop {
                let line = self.log.next_line().await.unwrap();
                let line = line.unwrap_or_else(|| panic!("the log ended without {text:?}"));
                if line.contains(text) {
                    return line;
                }
            }
        };
        timeout(PATIENCE, reading).await.expect("is logged in time")
    }

    fn stop(&self) {
        let pid = self.process.id().unwrap().cast_signed();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    }
}

#[tokio::test]
async fn nobody_waits_for_a_log_that_is_not_read() {
    let stack = Stack::new().await;
    let mut server = Server::unread(&stack).await;
    server.line_with("some were left out").await;
    server.stop();
    server.line_with("INFO stopped").await;
}

#[tokio::test]
async fn a_log_that_is_never_read_does_not_delay_the_end() {
    let stack = Stack::new().await;
    let mut server = Server::unread(&stack).await;
    server.stop();
    let ended = timeout(PATIENCE, server.process.wait()).await;
    assert!(ended.expect("ends in time").unwrap().success());
}
