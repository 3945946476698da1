use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{StatusCode, header::AUTHORIZATION};
use nix::sys::signal::Signal;
use serve::body;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    net::unix::pipe::Receiver,
    sync::Notify,
    time::timeout,
};

use harness::{
    PATIENCE, SERVER_ID, Stack,
    process::{self, Process},
    upstream,
};

/// Holds a client that makes one request after another, and the lines that it prints.
struct Repeating {
    client: Process,
    lines: Lines<BufReader<Receiver>>,
}

impl Repeating {
    fn new(stack: &Stack, port: u16, args: &[&str]) -> Self {
        let url = format!("https://localhost:{port}/");
        let args = [&["--url", &url], args].concat();
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = stack.command("client", &args);
        command.stdout(writer);
        let reader = Receiver::from_owned_fd(reader.into()).unwrap();
        Self {
            client: Process::spawn(command),
            lines: BufReader::new(reader).lines(),
        }
    }

    async fn line(&mut self) -> Option<String> {
        let line = timeout(PATIENCE, self.lines.next_line()).await;
        line.expect("a line comes in time").unwrap()
    }

    /// Reads up to a line with `text`. The lines before it must contain `others`.
    async fn until(&mut self, text: &str, others: &str) -> String {
        loop {
            let line = self.line().await.expect("the client continues");
            if line.contains(text) {
                return line;
            }
            assert!(line.contains(others), "{line}");
        }
    }

    /// Sends a signal, and returns the last line and the exit status.
    async fn end(&mut self, signal: Signal) -> (String, i32) {
        self.client.signal(signal);
        let mut last = String::new();
        while let Some(line) = self.line().await {
            last = line;
        }
        (last, self.client.ended().await.code().unwrap())
    }
}

#[tokio::test]
async fn each_request_has_a_line_and_all_a_summary() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let proxy = stack.proxy(server.listening().await, &[]).await;

    let args = ["--repeat", "3", "--every", "10ms"];
    let output = stack.client(proxy.listening().await, &args).await;

    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(output.stderr, b"");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    for line in &lines[..3] {
        let words: Vec<_> = line.split(' ').collect();
        let [time, "200", ms, "ms"] = words[..] else {
            panic!("{line}");
        };
        assert!(time.len() == 13 && time.ends_with('Z'), "{line}");
        assert!(ms.parse::<f64>().unwrap() > 0.0, "{line}");
    }
    assert!(lines[3].starts_with("3 requests in "), "{text}");
    assert!(lines[3].contains(" s: 3 ok, 0 failed; ms min "), "{text}");
}

#[tokio::test]
async fn a_rotation_fails_no_request() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let proxy = stack.proxy(server.listening().await, &[]).await;
    let mut watch = Repeating::new(&stack, proxy.listening().await, &["--every", "10ms"]);
    watch.until(" 200 ", " 200 ").await;

    stack.agent.rotate_x509();
    stack.agent.rotate_jwt_key();
    for process in [&server, &proxy] {
        process.logged("identity updated").await;
    }
    for _ in 0..20 {
        watch.until(" 200 ", " 200 ").await;
    }

    let (summary, status) = watch.end(Signal::SIGINT).await;
    assert!(summary.contains(" ok, 0 failed; ms min"), "{summary}");
    assert_eq!(status, 0);
}

#[tokio::test]
async fn token_is_renewed_and_outlives_its_agent_for_a_while_w115() {
    let stack = Stack::with(SERVER_ID, |config| config.jwt_ttl = Duration::from_secs(3)).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let recorder = Arc::clone(&seen);
    let port = upstream::answering(&stack, &["h2"], move |request| {
        let token = request.headers()[AUTHORIZATION].clone();
        let mut seen = recorder.lock().unwrap();
        if seen.last() != Some(&token) {
            seen.push(token);
        }
        async { body::status(StatusCode::OK) }
    })
    .await;
    let tokens = || seen.lock().unwrap().len();
    let mut watch = Repeating::new(&stack, port, &["--every", "20ms"]);
    while tokens() < 3 {
        watch.until(" 200 ", " 200 ").await;
    }

    stack.agent.stop().await;
    let before = tokens();
    watch.client.logged("cannot renew the JWT-SVID").await;
    watch.until(" 200 ", " 200 ").await;
    let line = watch.until(" failed ", " 200 ").await;
    assert!(
        line.ends_with(": no such socket; start the agent"),
        "{line}"
    );
    assert!(tokens() <= before + 1, "at most one fetch was in flight");

    stack.agent.restart().await.unwrap();
    watch.until(" 200 ", " failed ").await;
    let (summary, status) = watch.end(Signal::SIGTERM).await;
    assert!(summary.contains(" failed (no answer: "), "{summary}");
    assert_eq!(status, 1);
    let log = watch.client.log().join("\n");
    assert_eq!(
        log.matches("cannot renew").count(),
        1,
        "it is logged once:\n{log}"
    );
}

#[tokio::test]
async fn a_request_with_a_token_of_a_dropped_key_is_made_again() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let proxy = stack.proxy(server.listening().await, &[]).await;
    let mut watch = Repeating::new(&stack, proxy.listening().await, &["--every", "10ms"]);
    watch.until(" 200 ", " 200 ").await;

    stack.agent.rotate_jwt_key();
    stack.agent.drop_old_jwt_key();
    watch.until(", with a new token after 401", " 200 ").await;
    watch.until(" 200 ", " 200 ").await;

    let (summary, status) = watch.end(Signal::SIGINT).await;
    assert!(summary.contains(" ok, 0 failed"), "{summary}");
    assert_eq!(status, 0);
}

#[tokio::test]
async fn only_a_refused_token_is_replaced_and_once_for_each_request() {
    let stack = Stack::new().await;
    for (args, challenge, requests) in [
        (
            &["--repeat", "2", "--every", "10ms"] as &[&str],
            r#"Bearer error="invalid_token""#,
            4,
        ),
        (
            &["--repeat", "2", "--every", "10ms"],
            r#"Bearer realm="spiffe""#,
            2,
        ),
        (&[], r#"Bearer error="invalid_token""#, 1),
    ] {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let refusing = upstream::answering(&stack, &["h2"], move |_| {
            counter.fetch_add(1, SeqCst);
            async move {
                let mut response = body::status(StatusCode::UNAUTHORIZED);
                let headers = response.headers_mut();
                headers.insert("www-authenticate", challenge.parse().unwrap());
                response
            }
        })
        .await;
        let output = stack.client(refusing, args).await;
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(count.load(SeqCst), requests, "{args:?} {challenge}");
        let text = String::from_utf8(output.stdout).unwrap();
        let repeated = !args.is_empty();
        assert_eq!(text.matches("Z 401 ").count() == 2, repeated, "{text}");
        assert_eq!(
            text.contains(": 0 ok, 2 failed (401: 2);"),
            repeated,
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_request_without_an_answer_has_its_reason_and_its_own_deadline() {
    let stack = Stack::new().await;
    let silent = upstream::answering(&stack, &["h2"], async |_| std::future::pending().await).await;
    let [nobody] = process::free_ports();
    // Two deadlines end at the same time, and either may be the first.
    let late = [
        "ms: not done within 2s (--max-time)",
        "/ did not answer in time",
    ];
    let refused = ["ms: cannot connect to https://localhost:"; 2];
    for (port, reasons) in [(silent, late), (nobody, refused)] {
        let args = ["--repeat", "2", "--every", "10ms", "--max-time", "2s"];
        let output = stack.client(port, &args).await;
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(output.stderr, b"");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<_> = text.lines().collect();
        for line in &lines[..2] {
            let told = reasons.iter().any(|reason| line.contains(reason));
            assert!(told && line.contains("Z failed "), "{line}");
        }
        assert!(
            lines[2].contains(": 0 ok, 2 failed (no answer: 2); longest"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_signal_does_not_wait_for_the_request_in_flight() {
    let stack = Stack::new().await;
    let arrived = Arc::new(Notify::new());
    let arrival = Arc::clone(&arrived);
    let silent = upstream::answering(&stack, &["h2"], move |_| {
        arrival.notify_one();
        std::future::pending()
    })
    .await;
    let mut watch = Repeating::new(&stack, silent, &["--every", "1s"]);
    arrived.notified().await;
    let (summary, status) = watch.end(Signal::SIGINT).await;
    assert!(summary.starts_with("0 requests in "), "{summary}");
    assert_eq!(status, 1);
}

#[tokio::test]
async fn repeat_ends_quietly_when_its_output_is_closed() {
    let stack = Stack::new().await;
    let ok = upstream::answering(&stack, &["h2"], async |_| body::status(StatusCode::OK)).await;
    let mut watch = Repeating::new(&stack, ok, &["--every", "10ms"]);
    watch.until(" 200 ", " 200 ").await;
    let Repeating { mut client, lines } = watch;
    drop(lines);
    assert_eq!(client.ended().await.code(), Some(0));
    assert_eq!(client.log_to_end().await, "");
}
