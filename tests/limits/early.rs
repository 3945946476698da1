use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use harness::{Stack, https::Https, installed::is_installed, process::Process, raw::Client};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use harness::PATIENCE;

/// The lengths of uploads below and above the bytes that are read of a body after its answer.
const LENGTHS: [usize; 2] = [200_000, 1_000_000];

/// Answers uploads with `status` before their bodies have come.
struct Early {
    status: u16,
    process: Process,
    https: Https,
    /// Holds a field line with a token, or nothing.
    token: String,
}

/// Starts servers and proxies that answer uploads early. They answer 401 without a token, and 200
/// with one because the server reads no body. They answer 413 over `--max-body`.
async fn all(stack: &Stack) -> (Process, Vec<Early>) {
    let upstream = stack.server(&[]).await;
    let port = upstream.listening().await;
    let mut all = Vec::new();
    for (status, args) in [(401, &[][..]), (200, &[]), (413, &["--max-body", "1000"])] {
        for process in [stack.server(args).await, stack.proxy(port, args).await] {
            all.push(Early {
                status,
                https: stack.https(process.listening().await),
                process,
                token: match status {
                    401 => String::new(),
                    _ => format!("Authorization: {}\r\n", stack.bearer()),
                },
            });
        }
    }
    (upstream, all)
}

impl Early {
    /// Returns the head of an upload with a length, or with one chunk.
    fn head(&self, length: usize, in_chunks: bool) -> String {
        let framing = if in_chunks {
            format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n")
        } else {
            format!("Content-Length: {length}\r\n\r\n")
        };
        format!(
            "POST / HTTP/1.1\r\nHost: localhost\r\n{}{framing}",
            self.token
        )
    }

    async fn sends_all_then_reads(&self, length: usize, in_chunks: bool) {
        let end = if in_chunks { "\r\n0\r\n\r\n" } else { "" };
        let head = self.head(length, in_chunks);
        let upload = [head.as_bytes(), &vec![b'a'; length], end.as_bytes()].concat();
        let mut client = Client::sending(&self.https, upload).await;
        let answer = client.answer().await;
        let answer = answer.unwrap_or_else(|| panic!("{length} {in_chunks}: no {}", self.status));
        assert!(
            self.is_right(answer.status(), in_chunks),
            "{length} {in_chunks}: not {} but {answer:?}",
            self.status
        );
    }

    /// Returns whether `status` is right. A chunked upload may be answered 200 before it exceeds
    /// `--max-body`.
    fn is_right(&self, status: u16, in_chunks: bool) -> bool {
        status == self.status || in_chunks && (self.status, status) == (413, 200)
    }
}

#[tokio::test]
async fn a_caller_that_sends_all_before_it_reads_sees_the_early_status() {
    let stack = Stack::new().await;
    let (_upstream, all) = all(&stack).await;
    for early in &all {
        for length in LENGTHS {
            for in_chunks in [false, true] {
                for _ in 0..20 {
                    early.sends_all_then_reads(length, in_chunks).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_caller_that_sends_all_before_it_reads_sees_the_early_status_through_a_stop() {
    const CALLERS: usize = 10;
    let stack = Stack::new().await;
    let (_upstream, all) = all(&stack).await;
    for mut early in all {
        let mut begun = Vec::new();
        for n in 0..CALLERS {
            let length = LENGTHS[n % 2];
            let head = early.head(length, false);
            let half = [head.as_bytes(), &vec![b'a'; length / 2]].concat();
            begun.push((
                length - length / 2,
                Client::sending(&early.https, half).await,
            ));
        }
        early.process.signal(Signal::SIGTERM);
        early
            .process
            .logged("stopping: finishing what is in flight")
            .await;
        for (rest, mut client) in begun {
            client.send(vec![b'a'; rest]).await;
            let answer = client.answer().await;
            let answer = answer.unwrap_or_else(|| panic!("no {}", early.status));
            assert_eq!(answer.status(), early.status);
        }
        assert_eq!(early.process.ended().await.code(), Some(0));
    }
}

/// Holds the CA's certificates and the files to upload, for other programs to read.
struct Files {
    directory: TempDir,
}

impl Files {
    fn new(stack: &Stack) -> Self {
        let files = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        std::fs::write(files.roots(), stack.agent.x509_bundle_pem()).unwrap();
        for length in LENGTHS {
            std::fs::write(files.upload(length), vec![b'a'; length]).unwrap();
        }
        files
    }

    fn roots(&self) -> PathBuf {
        self.directory.path().join("roots.pem")
    }

    fn upload(&self, length: usize) -> PathBuf {
        self.directory.path().join(length.to_string())
    }
}

/// Returns the command of curl that uploads a file, with more options.
fn curl(early: &Early, roots: &Path, upload: &Path, more: &[&str]) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--http1.1", "-4", "-sS", "-m", "30", "-H", "Expect:"])
        .args(["-o", "/dev/null", "-w", "%{http_code}"])
        .arg("--cacert")
        .arg(roots)
        .arg("--data-binary")
        .arg(format!("@{}", upload.display()))
        .args(["-H", early.token.trim()])
        .args(more)
        .arg(format!("https://localhost:{}/", early.https.port()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    curl
}

async fn sees_status(curl: Child, early: &Early, in_chunks: bool) {
    let output = timeout(PATIENCE, curl.wait_with_output()).await;
    let output = output.expect("curl ends in time").unwrap();
    let status = String::from_utf8_lossy(&output.stdout).parse().unwrap();
    assert!(
        early.is_right(status, in_chunks),
        "not {}: {output:?}",
        early.status
    );
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn curl_sees_the_early_status_of_an_upload() {
    if !is_installed("curl", "--version").await {
        return;
    }
    let stack = Stack::new().await;
    let files = Files::new(&stack);
    let (_upstream, all) = all(&stack).await;
    for early in &all {
        for length in LENGTHS {
            for more in [&[][..], &["-H", "Transfer-Encoding: chunked"]] {
                for _ in 0..5 {
                    let mut curl = curl(early, &files.roots(), &files.upload(length), more);
                    sees_status(curl.spawn().unwrap(), early, !more.is_empty()).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn curl_sees_the_early_status_of_an_upload_through_a_stop() {
    if !is_installed("curl", "--version").await {
        return;
    }
    let stack = Stack::new().await;
    let files = Files::new(&stack);
    let (upstream, all) = all(&stack).await;
    for mut early in all {
        let mut running = Vec::new();
        let slowly = ["-v", "--limit-rate", "600K"];
        for length in LENGTHS.repeat(3) {
            let mut curl = curl(&early, &files.roots(), &files.upload(length), &slowly);
            let mut curl = curl.spawn().unwrap();
            wait_until_begun(&mut curl).await;
            running.push(curl);
        }
        early.process.signal(Signal::SIGTERM);
        for curl in running {
            sees_status(curl, &early, false).await;
        }
        assert_eq!(early.process.ended().await.code(), Some(0));
    }
    drop(upstream);
}

/// Waits until curl has sent its request's head. Reads the rest of its log in the background, so that
/// curl never waits for that.
async fn wait_until_begun(curl: &mut Child) {
    let mut lines = BufReader::new(curl.stderr.take().unwrap()).lines();
    let begun = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.starts_with("> POST") {
                return;
            }
        }
        panic!("curl never sent its request");
    };
    timeout(PATIENCE, begun).await.expect("curl begins in time");
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
}

/// Uploads with Python's own client, which reads nothing before it has sent everything. All uploads
/// wait after half of the body until the script reads a line.
const PYTHON: &str = r#"
import http.client, ssl, sys
port, roots, token, count, lengths = sys.argv[1:]
context = ssl.create_default_context(cafile=roots)
fields = {"Authorization": token} if token else {}
begun = []
for n in range(int(count)):
    for length in map(int, lengths.split(",")):
        caller = http.client.HTTPSConnection("localhost", int(port), timeout=25, context=context)
        caller.putrequest("POST", "/")
        caller.putheader("Content-Length", str(length))
        for field in fields.items():
            caller.putheader(*field)
        caller.endheaders()
        caller.send(b"a" * (length // 2))
        begun.append((caller, length - length // 2))
print("begun", flush=True)
sys.stdin.readline()
for caller, rest in begun:
    caller.send(b"a" * rest)
    print(caller.getresponse().status, flush=True)
"#;

/// Runs [`PYTHON`], and does `meanwhile` once all uploads have begun.
async fn python(early: &Early, roots: &Path, meanwhile: impl FnOnce()) {
    const COUNT: usize = 10;
    let lengths = LENGTHS.map(|length| length.to_string()).join(",");
    let token = early.token.trim().trim_start_matches("Authorization: ");
    let port = early.https.port().to_string();
    let mut python = Command::new("python3");
    python.args(["-c", PYTHON, &port]).arg(roots);
    python
        .args([token, &COUNT.to_string(), &lengths])
        .kill_on_drop(true);
    python.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = python.spawn().unwrap();
    let mut lines = BufReader::new(python.stdout.take().unwrap()).lines();
    let mut line = async || {
        let line = timeout(PATIENCE, lines.next_line()).await;
        line.expect("a line comes in time").unwrap()
    };
    assert_eq!(line().await.as_deref(), Some("begun"));
    meanwhile();
    python.stdin.take().unwrap().write_all(b"\n").await.unwrap();
    for n in 0..COUNT * LENGTHS.len() {
        let status = line().await;
        let status = status.unwrap_or_else(|| panic!("upload {n} failed, not {}", early.status));
        assert_eq!(status, early.status.to_string());
    }
}

#[tokio::test]
async fn python_sees_the_early_status_of_an_upload() {
    if !is_installed("python3", "--version").await {
        return;
    }
    let stack = Stack::new().await;
    let files = Files::new(&stack);
    let (_upstream, all) = all(&stack).await;
    for early in &all {
        python(early, &files.roots(), || ()).await;
    }
}

#[tokio::test]
async fn python_sees_the_early_status_of_an_upload_through_a_stop() {
    if !is_installed("python3", "--version").await {
        return;
    }
    let stack = Stack::new().await;
    let files = Files::new(&stack);
    let (_upstream, all) = all(&stack).await;
    for mut early in all {
        python(&early, &files.roots(), || {
            early.process.signal(Signal::SIGTERM)
        })
        .await;
        assert_eq!(early.process.ended().await.code(), Some(0));
    }
}
