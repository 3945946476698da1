use std::{
    fs::OpenOptions,
    net::TcpListener,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    process::Stdio,
    time::Duration,
};

use http::Version;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, BufReader, Lines},
    net::unix::pipe,
    process::{Child, ChildStderr, Command},
    time::timeout,
};

use harness::{
    PATIENCE, Stack,
    admin::{ADMIN, Admin},
    binary,
    https::get,
    metrics::Page,
    process::{self, Process},
};

#[tokio::test]
async fn lines_are_json_with_log_format_json() {
    let stack = Stack::new().await;
    let server = stack.server(&["--log-format", "json"]).await;
    let token = stack.bearer();
    let port = server.listening().await;
    stack
        .https(port)
        .send(get(&[("authorization", &token)]))
        .await;
    let line: serde_json::Value =
        serde_json::from_str(&server.logged("Request received").await).unwrap();
    assert_eq!(line["caller"], "spiffe://example.org/client");
}

/// Holds a server that logs at every level, and its log, which only the test reads.
struct Server {
    process: Child,
    log: Lines<BufReader<ChildStderr>>,
    admin: Admin,
}

impl Server {
    /// Starts a server and sends requests until neither the pipe nor the buffer can hold its log
    /// lines.
    async fn unread(stack: &Stack) -> Self {
        let args = [&["--listen", "127.0.0.1:0", "--cores", "1"], &ADMIN[..]].concat();
        let mut command = stack.command("server", &args);
        command.env("RUST_LOG", "trace").stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let stderr = process.stderr.take().unwrap();
        // The pipe is larger where memory pages are.
        fcntl(&stderr, FcntlArg::F_SETPIPE_SZ(64 * 1024)).unwrap();
        let mut log = BufReader::new(stderr).lines();
        let line = timeout(PATIENCE, line_with(&mut log, "admin listener at ")).await;
        let line = line.expect("is logged in time");
        let (_, address) = line.split_once("admin listener at ").unwrap();
        let admin = Admin::Ip(address.trim().to_owned());
        let mut server = Self {
            process,
            log,
            admin,
        };
        let port = process::port(&server.line_with(process::LISTENING).await);
        let https = stack.https(port);
        for _ in 0..150 {
            // HTTP/2 logs some hundred lines for each request at this level.
            let answer = https.send_over(Version::HTTP_2, get(&[])).await;
            assert_eq!(answer.status, 401);
        }
        server
    }

    /// Reads up to a line with `text`.
    async fn line_with(&mut self, text: &str) -> String {
        let reading = line_with(&mut self.log, text);
        timeout(PATIENCE, reading).await.expect("is logged in time")
    }

    fn stop(&self) {
        let pid = self.process.id().unwrap().cast_signed();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    }
}

/// Reads up to a line with `text`.
async fn line_with(log: &mut Lines<impl AsyncBufRead + Unpin>, text: &str) -> String {
    loop {
        let line = log.next_line().await.unwrap();
        let line = line.unwrap_or_else(|| panic!("the log ended without {text:?}"));
        if line.contains(text) {
            return line;
        }
    }
}

#[tokio::test]
async fn requests_do_not_wait_for_a_log_that_is_not_read() {
    let stack = Stack::new().await;
    let mut server = Server::unread(&stack).await;
    let page = Page::of(&server.admin).await;
    let lost = page.at("spiffe_log_lines_lost_total");
    assert!(lost > 0.0, "they are counted while nobody reads");
    server.line_with("some were left out").await;
    server.stop();
    server.line_with("INFO stopped").await;
}

#[tokio::test]
async fn outputs_that_are_closed_or_full_stop_nothing() {
    let stack = Stack::new().await;
    for closed in [">&-", "2>&-", ">&- 2>&-", "2>/dev/full"] {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let https = stack.https(socket.local_addr().unwrap().port());
        let script =
            format!("LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0 0</dev/null {closed}");
        let mut command =
            process::in_shell(&script, &binary("server"), &stack.agent.endpoint(), &[]);
        command.stdin(OwnedFd::from(socket)).stderr(Stdio::null());
        let mut server = Process::spawn_unread(command);
        assert_eq!(https.send(get(&[])).await.status, 401, "{closed}");
        server.signal(Signal::SIGTERM);
        assert_eq!(server.ended().await.code(), Some(0), "{closed}");
    }
}

#[tokio::test]
async fn lost_lines_are_counted_and_told_when_the_log_takes_lines_again() {
    let stack = Stack::new().await;
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("log");
    let made = Command::new("mkfifo").arg(&pipe).status().await.unwrap();
    assert!(made.success());
    let reader = || {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let file = options.open(&pipe).unwrap();
        BufReader::new(pipe::Receiver::from_file(file).unwrap()).lines()
    };
    let mut log = reader();
    let args = ["--listen", "127.0.0.1:0"];
    let mut command = stack.command("server", &args);
    command.stderr(OpenOptions::new().write(true).open(&pipe).unwrap());
    let mut server = Process::spawn_unread(command);
    let listening = timeout(PATIENCE, line_with(&mut log, process::LISTENING)).await;
    let port = process::port(&listening.expect("listens in time"));
    let https = stack.https(port);
    let told = async {
        // Lines are written every 10 ms, which is less time than enough requests take.
        for requests in (8..).step_by(8) {
            drop(log);
            for _ in 0..requests {
                let answer = https.send(get(&[])).await;
                assert_eq!(answer.status, 401, "it is served without a log");
            }
            log = reader();
            assert_eq!(https.send(get(&[])).await.status, 401);
            let reading = line_with(&mut log, "could not be written to standard error");
            if let Ok(line) = timeout(Duration::from_secs(1), reading).await {
                return line;
            }
        }
        unreachable!("the requests never end");
    };
    let line = timeout(PATIENCE, told)
        .await
        .expect("the loss is logged in time");
    assert!(
        line.contains("lines=") && line.contains("Broken pipe"),
        "{line}"
    );
    server.signal(Signal::SIGTERM);
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_log_that_is_never_read_does_not_delay_the_end() {
    let stack = Stack::new().await;
    let mut server = Server::unread(&stack).await;
    server.stop();
    let ended = timeout(PATIENCE, server.process.wait()).await;
    assert!(ended.expect("ends in time").unwrap().success());
}
