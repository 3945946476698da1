//! The proxy against peers that say whatever they like, byte for byte: what crosses it, what is
//! refused, and that nobody takes a part of one message for another. Numbers are those of
//! `CONFORMANCE.md`.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Has an upstream that is absent, slow, or somebody else.
mod bad_upstream;
/// Breaks answers off over HTTP/2.
mod breaks;
/// Answers without a body, though the head may have a length.
mod empty;
/// Header fields that cross, in both directions.
mod fields;
/// Where requests end: two lengths, odd codings, broken chunks.
mod framing;
/// Gives requests back unread, as HTTP/2 upstreams may.
mod given_back;
/// Answers with heads of all lengths, next to other requests.
mod heads;
/// `Via`: chains of proxies, and requests that go in a circle.
mod hops;
/// HTTP/2 frames that no client library would send.
mod http2;
/// Stops and kills the server that requests are at.
mod killed;
/// Sends large bodies in both directions, in bounded memory.
mod large_bodies;
/// Limits log lines about requests that are not forwarded.
mod rejections;
/// Where responses end, and responses that should not be.
mod responses;
/// The process as a whole: slow callers, logs, panics, its end.
mod running;
/// Tests which requests the proxy sends again, and which never.
mod sent_again;
/// Leaves bodies unread at the upstream, next to other callers' requests.
mod sharing;
/// Spreads requests over several upstreams, and restarts these.
mod spread;
/// Limits the requests that an upstream takes at once on a connection.
mod streams;
/// Method, target and Host.
mod targets;
/// Upgrade, Expect, CONNECT and what follows them.
mod upgrades;
/// Upstreams that fail, the pool of their connections, retries, aborts, backpressure.
mod upstreams;

use harness::{
    Stack,
    https::Https,
    process::Process,
    proxy_stack::ProxyStack,
    raw::{self, Answer, Client, Message, Upstream},
};

/// A proxy before a recording upstream.
struct Proxied {
    stack: Stack,
    upstream: Upstream,
    proxy: Process,
    https: Https,
}

impl Proxied {
    /// Before an upstream that answers each request with its target.
    async fn new() -> Self {
        Self::answered(raw::echo, &[]).await
    }

    /// Before an upstream that answers by `script`, the proxy started with more `args`.
    async fn answered(
        script: impl Fn(&Message) -> Answer + Send + Sync + 'static,
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

    /// Sends `request` on a connection of its own, and the canary right behind it.
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
            goes_on: canary.is_some(),
        }
    }
}

/// What became of a request and of the canary behind it.
#[derive(Debug)]
struct Outcome {
    /// Of the answer; 0 when the connection ended without one.
    status: u16,
    answer: Option<Message>,
    /// What the upstream got, the canary left out.
    forwarded: Vec<Message>,
    /// The canary was answered as what it is; else the connection ended.
    goes_on: bool,
}

const CANARY: &[u8] = b"GET /canary HTTP/1.1\r\nHost: a\r\n\r\n";

/// A request of `lines` and then `body`.
fn request(lines: &[&str], body: &str) -> String {
    format!("{}\r\n\r\n{body}", lines.join("\r\n"))
}

/// A GET of `/` with these field lines.
fn get(fields: &[&str]) -> String {
    request(&[&["GET / HTTP/1.1", "Host: a"], fields].concat(), "")
}

/// A POST to `/` with these field lines.
fn post(fields: &[&str], body: &str) -> String {
    request(&[&["POST / HTTP/1.1", "Host: a"], fields].concat(), body)
}
