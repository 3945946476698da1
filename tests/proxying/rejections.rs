use std::time::{Duration, Instant};

use harness::raw::Client;

use crate::{Proxied, get, post, request};

/// The requests of a flood, many times the quota of one address.
const FLOOD: usize = 3000;

/// Returns the most lines that one address gets in `time`, with the periods at both ends.
fn lines_in(time: Duration) -> usize {
    20 * (time.as_secs() as usize + 2)
}

/// Returns the lines about requests that were answered with `status`.
fn of_status(log: &[String], status: u16) -> Vec<&String> {
    let status = format!("status={status}");
    log.iter().filter(|line| line.contains(&status)).collect()
}

#[tokio::test]
async fn rejected_request_makes_one_log_line_p143() {
    let mut proxied = Proxied::new().await;
    let requests = [
        (
            400,
            get(&["Host: b"]),
            "WARN malformed request: more than one Host",
        ),
        (
            404,
            request(&["GET /nowhere HTTP/1.1", "Host: a"], ""),
            "WARN not found",
        ),
        (
            405,
            request(&["TRACE /t HTTP/1.1", "Host: a"], ""),
            "WARN a method",
        ),
        (417, get(&["Expect: else"]), "WARN an expectation"),
        (
            501,
            post(&["Transfer-Encoding: gzip, chunked"], "0\r\n\r\n"),
            "WARN a transfer coding",
        ),
        (
            204,
            request(&["OPTIONS * HTTP/1.1", "Host: a"], ""),
            "INFO a question to this hop",
        ),
    ];
    for (status, bytes, _) in &requests {
        assert_eq!(proxied.probe(bytes).await.status, *status, "{bytes}");
    }
    assert_eq!(proxied.probe(get(&[])).await.status, 200);
    let log = proxied.proxy.whole_log().await;
    let log: Vec<_> = log.lines().map(str::to_owned).collect();
    for (status, _, text) in requests {
        let lines = of_status(&log, status);
        assert_eq!(lines.len(), 1, "{status}: {log:?}");
        assert!(lines[0].contains(text), "{}", lines[0]);
        assert!(lines[0].contains(" method="), "{}", lines[0]);
        assert!(lines[0].contains(" peer=127.0.0.1:"), "{}", lines[0]);
    }
    let of_requests = log.iter().filter(|line| line.contains("peer="));
    let forwarded = log.iter().filter(|line| line.contains("INFO GET /"));
    let canaries = 3;
    assert_eq!(forwarded.count(), 1 + canaries, "{log:?}");
    assert_eq!(of_requests.count(), 6 + 1 + canaries, "{log:?}");
}

#[tokio::test]
async fn flood_of_rejected_requests_leaves_the_log_to_other_sources_p143() {
    for (path, status) in [("/nowhere", 404), ("/\"", 400)] {
        let mut proxied = Proxied::new().await;
        let unknown = request(&[&format!("GET {path} HTTP/1.1"), "Host: a"], "");
        let start = Instant::now();
        let mut stranger = Client::new(&proxied.https).await;
        let mut sent = 0;
        for _ in 0..FLOOD {
            sent += 1;
            stranger.send(&unknown).await;
            let answer = stranger.answer().await.unwrap();
            assert_eq!(answer.status(), status);
            if status == 400 {
                stranger = Client::new(&proxied.https).await;
            }
            if start.elapsed() > Duration::from_secs(3) {
                break;
            }
        }
        let time = start.elapsed();
        let other = proxied.https.from("127.0.0.2");
        let mut other = Client::sending(&other, &unknown).await;
        assert_eq!(other.answer().await.unwrap().status(), status);
        proxied.proxy.logged("peer=127.0.0.2:").await;
        let mut client = Client::sending(&proxied.https, get(&[])).await;
        assert_eq!(client.answer().await.unwrap().status(), 200);
        proxied.proxy.logged("INFO GET / peer=127.0.0.1:").await;
        let log = proxied.proxy.whole_log().await;
        let log: Vec<_> = log.lines().map(str::to_owned).collect();
        let lines = of_status(&log, status);
        let strangers = lines.iter().filter(|line| line.contains("peer=127.0.0.1:"));
        let strangers = strangers.count();
        assert!(strangers <= lines_in(time), "{strangers} in {time:?}");
        // A machine that is too busy for a flood leaves out no line.
        let is_told = lines.iter().any(|line| line.contains("left_out="));
        assert!(is_told || sent < lines.len(), "{sent} sent: {lines:?}");
    }
}

#[tokio::test]
async fn log_lines_about_the_upstream_are_limited_apart_p143() {
    let mut proxied = Proxied::answered(
        |_| harness::raw::Reply::Last(b"nonsense\r\n\r\n".into()),
        &[],
    )
    .await;
    let mut client = Client::new(&proxied.https).await;
    for _ in 0..100 {
        client
            .send(request(&["GET /nowhere HTTP/1.1", "Host: a"], ""))
            .await;
        assert_eq!(client.answer().await.unwrap().status(), 404);
    }
    let start = Instant::now();
    for _ in 0..100 {
        client.send(get(&[])).await;
        assert_eq!(client.answer().await.unwrap().status(), 502);
    }
    let time = start.elapsed();
    let log = proxied.proxy.whole_log().await;
    let log: Vec<_> = log.lines().map(str::to_owned).collect();
    let failures = of_status(&log, 502).len();
    assert!(
        (1..=lines_in(time)).contains(&failures),
        "{failures} in {time:?}"
    );
    let forwarded = log.iter().filter(|line| line.contains("INFO GET /"));
    assert_eq!(forwarded.count(), 100, "each forwarded request is logged");
}
