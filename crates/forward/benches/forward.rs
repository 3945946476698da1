//! Measures how long it takes to check a request and to clean it for the upstream.
#![allow(clippy::unwrap_used, reason = "a bench that fails should stop")]

use std::net::SocketAddr;

use criterion::{BatchSize, Criterion};
use forward::{Checked, FieldPolicy};
use http::{Request, Version, header::AUTHORIZATION};
use http_body_util::Empty;
use hyper::body::Bytes;
use serve::peer::Peer;

type Body = Empty<Bytes>;

/// The fields of a typical program, to which the token adds one.
const TYPICAL: [(&str, &str); 9] = [
    ("host", "shop.example.org:8443"),
    ("user-agent", "shop/4.2.0 (linux; x86_64)"),
    ("accept", "application/json"),
    ("accept-encoding", "gzip, br"),
    ("accept-language", "en"),
    ("content-type", "application/json"),
    ("cache-control", "no-cache"),
    (
        "traceparent",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ),
    ("x-request-id", "6f1c2f0e-35a7-4d5e-9f0c-6c0f2b0a7d11"),
];

/// Fields that are removed: fields for one hop, some of them nominated, and claims of an identity.
const REMOVED: [(&str, &str); 24] = [
    (
        "connection",
        "keep-alive, x-hop-1, x-hop-2, x-hop-3, authorization",
    ),
    ("keep-alive", "timeout=5"),
    ("proxy-connection", "keep-alive"),
    ("proxy-authorization", "Basic Og=="),
    ("te", "trailers"),
    ("trailer", "x-checksum"),
    ("upgrade", "websocket"),
    ("http2-settings", "AAMAAABkAAQAAP__"),
    ("x-hop-1", "a"),
    ("x-hop-2", "b"),
    ("x-hop-3", "c"),
    ("forwarded", "for=192.0.2.1;proto=https"),
    ("x-forwarded-for", "192.0.2.1"),
    ("x-forwarded-for", "192.0.2.2"),
    ("x-forwarded-host", "admin.example.org"),
    ("x-forwarded-proto", "http"),
    ("x-forwarded-client-cert", "URI=spiffe://example.org/admin"),
    ("x-real-ip", "192.0.2.1"),
    ("true-client-ip", "192.0.2.1"),
    ("x-cluster-client-ip", "192.0.2.1"),
    ("client-cert", ":AAAA:"),
    ("ssl-client-verify", "SUCCESS"),
    ("x-envoy-external-address", "192.0.2.1"),
    ("x-spiffe-id", "spiffe://example.org/admin"),
];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let fields = FieldPolicy::default();
    let peer: SocketAddr = "192.0.2.7:50123".parse().unwrap();
    let peer = Peer::from(peer);
    let clean = |request| Checked::new(request).unwrap().cleaned(&peer, &fields);

    let mut group = criterion.benchmark_group("check and clean");
    for (name, removed) in [
        ("ten fields", &REMOVED[..0]),
        ("claims and hop-by-hop fields too", &REMOVED),
    ] {
        let request = request(removed);
        let cleaned = clean(request.clone());
        assert!(cleaned.headers().contains_key(AUTHORIZATION));
        assert!(!cleaned.headers().contains_key("x-spiffe-id"));
        group.bench_function(name, |bencher| {
            bencher.iter_batched(|| request.clone(), clean, BatchSize::SmallInput);
        });
    }
    group.finish();
    criterion.final_summary();
}

/// Returns a request over HTTP/1.1 with a token as long as one by an RSA key, and `more` fields.
fn request(more: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::get("/orders/42?fields=all")
        .version(Version::HTTP_11)
        .header(AUTHORIZATION, format!("Bearer {}", "a".repeat(600)));
    for &(name, value) in TYPICAL.iter().chain(more) {
        request = request.header(name, value);
    }
    request.body(Empty::new()).unwrap()
}
