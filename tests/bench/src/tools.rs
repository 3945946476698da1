//! Runs wrk and h2load and parses their output.

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

/// The result of a load generator.
#[derive(Debug, PartialEq)]
pub(crate) struct LoadResult {
    /// The number of answers.
    pub(crate) requests: u64,
    /// The number of answers other than 200 and of requests without an answer.
    pub(crate) bad: u64,
    /// Answers per second.
    pub(crate) per_second: f64,
    /// The 99th percentile of the time to an answer, in ms. Some generators do not report it.
    pub(crate) p99_millis: Option<f64>,
    /// The number of TLS connections that resumed a session, if the generator counts them.
    pub(crate) resumed: u64,
}

/// Runs wrk with `connections` kept-alive HTTP/1.1 connections for `seconds`.
pub(crate) async fn wrk(
    port: u16,
    token: &str,
    connections: u32,
    seconds: u64,
) -> Result<LoadResult> {
    let args = wrk_args(port, token, connections, seconds);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    parse_wrk(&output("wrk", &args).await?)
}

/// Runs [`wrk`] with POST and a body of `size` bytes.
///
/// A connection of wrk hangs without a report if its answer comes before the end of its body.
/// This does not happen here, because the send buffer of a loopback connection holds a whole body.
/// The buffer has 3.7 MiB (`SO_SNDBUF` after connecting, Linux 6.18).
pub(crate) async fn wrk_post(
    port: u16,
    token: &str,
    connections: u32,
    seconds: u64,
    size: usize,
) -> Result<LoadResult> {
    const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/post.lua");
    let args = wrk_args(port, token, connections, seconds);
    let size = size.to_string();
    let script = ["-s", SCRIPT].into_iter();
    let args = script.chain(args.iter().map(String::as_str));
    let args: Vec<_> = args.chain(["--", &size]).collect();
    parse_wrk(&output("wrk", &args).await?)
}

/// Runs [`wrk`] without TLS and without a token.
pub(crate) async fn wrk_plaintext(port: u16, connections: u32, seconds: u64) -> Result<LoadResult> {
    let (connections, duration) = (format!("-c{connections}"), format!("-d{seconds}s"));
    let url = format!("http://127.0.0.1:{port}/");
    let args = ["-t1", "--latency", &connections, &duration, &url];
    parse_wrk(&output("wrk", &args).await?)
}

fn wrk_args(port: u16, token: &str, connections: u32, seconds: u64) -> [String; 7] {
    [
        "-t1".to_owned(),
        "--latency".to_owned(),
        format!("-c{connections}"),
        format!("-d{seconds}s"),
        "-H".to_owned(),
        format!("Authorization: Bearer {token}"),
        format!("https://127.0.0.1:{port}/"),
    ]
}

/// A kind of POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// A unary gRPC call.
    Grpc,
    /// A request with the same body.
    Plain,
}

/// The content type of gRPC calls.
pub(crate) const GRPC: &str = "application/grpc";
/// A gRPC message of ten bytes with its prefix.
pub(crate) const MESSAGE: &[u8] = b"\0\0\0\0\x0aSuccess!!!";

/// Runs [`h2load`] with POSTs of [`MESSAGE`].
pub(crate) async fn h2load_post(
    port: u16,
    token: &str,
    call: Call,
    seconds: u64,
) -> Result<LoadResult> {
    let body = tempfile::NamedTempFile::new()?;
    std::fs::write(body.path(), MESSAGE)?;
    let body = body.path().to_string_lossy();
    let kind = match call {
        Call::Grpc => GRPC,
        Call::Plain => "application/octet-stream",
    };
    let (duration, token) = (
        seconds.to_string(),
        format!("Authorization: Bearer {token}"),
    );
    let (kind, url) = (
        format!("Content-Type: {kind}"),
        format!("https://127.0.0.1:{port}/test.Calls/Unary"),
    );
    let load = ["-c4", "-m64", "-D", &duration, "-d", &body];
    let fields = ["-H", &token, "-H", &kind, "-H", "TE: trailers", &url];
    parse_h2load(&output("h2load", &[&load[..], &fields].concat()).await?)
}

/// Runs h2load with four HTTP/2 connections of 64 streams for `seconds`.
pub(crate) async fn h2load(port: u16, token: &str, seconds: u64) -> Result<LoadResult> {
    let args = [
        "-c4",
        "-m64",
        "-D",
        &seconds.to_string(),
        "-H",
        &format!("Authorization: Bearer {token}"),
        &format!("https://127.0.0.1:{port}/"),
    ];
    parse_h2load(&output("h2load", &args).await?)
}

/// Runs a program to its end, and kills it if this is dropped.
pub(crate) async fn output(program: &str, args: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args).kill_on_drop(true);
    let output = command.output().await;
    let output = output.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{program} failed ({}): {error}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn parse_wrk(text: &str) -> Result<LoadResult> {
    let count = |marker| number_after(text, marker).unwrap_or(0.0) as u64;
    // "Socket errors: connect 0, read 0, write 0, timeout 3"
    let socket_errors = text
        .split_once("Socket errors:")
        .and_then(|(_, rest)| rest.lines().next())
        .map(|line| {
            line.split([' ', ','])
                .filter_map(|word| word.parse::<u64>().ok())
        });
    Ok(LoadResult {
        requests: number_before(text, " requests in")
            .context("wrk did not print the number of requests")? as u64,
        bad: count("Non-2xx or 3xx responses:") + socket_errors.into_iter().flatten().sum::<u64>(),
        per_second: number_after(text, "Requests/sec:").context("wrk did not print the rate")?,
        p99_millis: text
            .lines()
            .find_map(|line| line.trim().strip_prefix("99% "))
            .and_then(millis),
        resumed: 0,
    })
}

fn parse_h2load(text: &str) -> Result<LoadResult> {
    let line = |start: &str| {
        let found = text.lines().find(|line| line.starts_with(start));
        found.with_context(|| format!("h2load did not print '{start}'"))
    };
    let (requests, statuses) = (line("requests:")?, line("status codes:")?);
    let number = |line, marker| number_before(line, marker).map(|n| n as u64);
    let good = number(statuses, " 2xx").context("h2load did not print the number of 2xx")?;
    let failed =
        number(requests, " failed").context("h2load did not print the number of failures")?;
    let done = number(requests, " done").context("h2load did not print the number of requests")?;
    Ok(LoadResult {
        requests: done,
        bad: failed + done.saturating_sub(good),
        per_second: number_before(line("finished in")?, " req/s")
            .context("h2load did not print the rate")?,
        p99_millis: None,
        resumed: 0,
    })
}

/// Parses the word after `marker` as a number.
fn number_after(text: &str, marker: &str) -> Option<f64> {
    let (_, rest) = text.split_once(marker)?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Parses the word before `marker` as a number.
fn number_before(text: &str, marker: &str) -> Option<f64> {
    let (rest, _) = text.split_once(marker)?;
    rest.split_whitespace().next_back()?.parse().ok()
}

/// Parses a time of wrk's output: `870.00us`, `2.41ms`, `1.02s`.
fn millis(text: &str) -> Option<f64> {
    let text = text.trim();
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let value: f64 = text[..unit].parse().ok()?;
    match &text[unit..] {
        "us" => Some(value / 1000.0),
        "ms" => Some(value),
        "s" => Some(value * 1000.0),
        "m" => Some(value * 60_000.0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "\
Running 2s test @ https://127.0.0.1:8443/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.11ms  405.32us   8.70ms   83.93%
    Req/Sec    28.83k     1.02k   30.48k    71.43%
  Latency Distribution
     50%    1.04ms
     99%    2.56ms
  60243 requests in 2.10s, 7.35MB read
Requests/sec:  28684.91
Transfer/sec:      3.50MB
";

    const H2LOAD: &str = "\
finished in 2.00s, 51236.50 req/s, 1.81MB/s
requests: 102473 total, 102729 started, 102473 done, 102470 succeeded, 3 failed, 1 errored, 2 timeout
status codes: 102470 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 3.62MB (3791501) total, 200.15KB (204950) headers (space savings 97.62%), 977.26KB (1000710) data
";

    #[test]
    fn output_of_wrk_is_read() {
        let load = parse_wrk(WRK).unwrap();
        assert_eq!((load.requests, load.bad), (60_243, 0));
        assert_eq!((load.per_second, load.p99_millis), (28_684.91, Some(2.56)));
    }

    #[test]
    fn failures_that_wrk_reports_are_counted() {
        let text = format!(
            "{WRK}  Socket errors: connect 1, read 20, write 0, timeout 300\n  Non-2xx or 3xx responses: 4000\n"
        );
        assert_eq!(parse_wrk(&text).unwrap().bad, 4321);
        assert!(parse_wrk("unable to connect").is_err());
    }

    #[test]
    fn output_of_h2load_is_read() {
        let load = parse_h2load(H2LOAD).unwrap();
        assert_eq!((load.requests, load.bad), (102_473, 3 + 3));
        assert_eq!((load.per_second, load.p99_millis), (51_236.5, None));
        assert!(parse_h2load("").is_err());
    }

    #[test]
    fn times_are_read_with_their_units() {
        for (text, value) in [("870.00us", 0.87), ("2.41ms", 2.41), (" 1.02s", 1020.0)] {
            assert_eq!(millis(text), Some(value));
        }
        assert_eq!(millis("12"), None);
    }
}
