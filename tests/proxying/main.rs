//! Tests the proxy byte for byte with peers that follow no rule. Checks what crosses it and what it
//! refuses, and that a part of one message is never taken for another. Numbers are those of
//! `CONFORMANCE.md`.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Tests an upstream that is absent, slow, or the wrong one.
mod bad_upstream;
/// Breaks answers off over HTTP/2.
mod breaks;
/// Breaks answers to uploads off that have a connection of their own.
mod broken_off;
/// Makes gRPC calls, and cancels them.
mod calls;
/// Tests answers without a body, whose head may have a length.
mod empty;
/// Tests header fields that cross, in both directions.
mod fields;
/// Tests the ends of requests: two lengths, odd codings, broken chunks.
mod framing;
/// Gives requests back unprocessed, as HTTP/2 upstreams may.
mod given_back;
/// Leaves with POSTs in flight, as an HTTP/2 upstream may.
mod goaway;
/// Answers with heads of all lengths, next to other requests.
mod heads;
/// Holds requests at the upstream until they are released.
mod holding;
/// Tests `Via`: chains of proxies, and requests that go in a circle.
mod hops;
/// Sends HTTP/2 frames that no client library would send.
mod http2;
/// Uses connections that the upstream may be about to close.
mod idle;
/// Stops and kills the server that has requests in flight.
mod killed;
/// Sends large bodies in both directions, in bounded memory.
mod large_bodies;
/// Limits log lines about requests that are not forwarded.
mod rejections;
/// Tests the ends of responses, and malformed responses.
mod responses;
/// Tests the process as a whole: slow callers, logs, panics, its end.
mod running;
/// Tests which requests the proxy sends again, and which it never does.
mod sent_again;
/// Leaves bodies unread at the upstream, next to other callers' requests.
mod sharing;
/// Streams answers that are silent for long.
mod silent;
/// Spreads requests over several upstreams, and restarts these.
mod spread;
/// Limits the concurrent streams of an upstream connection.
mod streams;
/// Tests the method, the target and Host.
mod targets;
/// Tests trailers in both directions.
mod trailers;
/// Tests Upgrade, Expect, CONNECT and the bytes after them.
mod upgrades;
/// Tests upstreams that fail, pooled connections, retries, aborts and backpressure.
mod upstreams;
/// Opens WebSockets.
mod websockets;

use std::time::Duration;

use harness::{
    Stack,
    https::Https,
    process::Process,
    proxy_stack::ProxyStack,
    raw::{self, Client, Message, Reply, Upstream},
};

/// The proxy sends only what it may send again over a connection that was idle for so long.
const FRESH: Duration = Duration::from_secs(1);

/// Runs a proxy in front of a recording upstream.
struct Proxied {
    stack: Stack,
    upstream: Upstream,
    proxy: Process,
    https: Https,
}

impl Proxied {
    /// Starts an upstream that answers each request with its target, and the proxy.
    async fn new() -> Self {
        Self::answered(raw::echo, &[]).await
    }

    /// Starts an upstream that answers by `script`, and the proxy with more `args`.
    async fn answered(
        script: impl Fn(&Message) -> Reply + Send + Sync + 'static,
        args: &[&str],
    ) -> Self {
        let paths = ["--cores", "1", "--path", "/", "--path", "/canary"];
        let upstream = async |stack: &Stack| Upstream::new(stack, script).await;
        let ProxyStack {
            stack,
            upstream,
            proxy,
            https,
        } = ProxyStack::before(upstream, &[&paths, args].concat()).await;
        Self {
            stack,
            upstream,
            proxy,
            https,
        }
    }

    /// Sends `request` on a connection of its own, and the canary directly after it.
    async fn probe(&self, request: impl AsRef<[u8]>) -> Outcome {
        let before = self.upstream.requests().len();
        let mut client = Client::sending(&self.https, [request.as_ref(), CANARY].concat()).await;
        let first = client.answer().await;
        let canary = match &first {
            Some(_) => client.answer().await,
            None => None,
        };
        let mut forwarded = self.upstream.requests().split_off(before);
        if let Some(canary) = &canary {
            assert_eq!(
                (canary.status(), canary.body.as_slice()),
                (200, &b"/canary"[..])
            );
            assert!(
                forwarded
                    .pop()
                    .unwrap()
                    .start_line()
                    .starts_with("GET /canary ")
            );
        }
        Outcome {
            status: first.as_ref().map_or(0, Message::status),
            answer: first,
            forwarded,
            continues: canary.is_some(),
        }
    }
}

/// The outcome of a request and of the canary after it.
#[derive(Debug)]
struct Outcome {
    /// The status of the answer, or 0 if the connection ended without one.
    status: u16,
    answer: Option<Message>,
    /// The requests that the upstream received, except the canary.
    forwarded: Vec<Message>,
    /// The canary was answered as a request of its own. Otherwise the connection ended.
    continues: bool,
}

const CANARY: &[u8] = b"GET /canary HTTP/1.1\r\nHost: a\r\n\r\n";

/// Returns a request of `lines` and then `body`.
fn request(lines: &[&str], body: &str) -> String {
    format!("{}\r\n\r\n{body}", lines.join("\r\n"))
}

/// Returns a GET of `/` with these field lines.
fn get(fields: &[&str]) -> String {
    request(&[&["GET / HTTP/1.1", "Host: a"], fields].concat(), "")
}

/// Returns a POST to `/` with these field lines and `body`.
fn post(fields: &[&str], body: &str) -> String {
    request(&[&["POST / HTTP/1.1", "Host: a"], fields].concat(), body)
}
