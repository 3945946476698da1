//! The metrics of upstreams.

use common::label::Label;
use forward::outbound::{Counts, Upstream};

use super::page::Page;

/// Writes the metrics of upstreams that share their counts.
pub(super) fn write(upstreams: &[Upstream], page: &mut Page) {
    let Some(first) = upstreams.first() else {
        return;
    };
    counts(first.counts(), page);
    page.gauge(
        "spiffe_upstream_queued",
        "Requests that wait for room on an upstream connection.",
    )
    .value(&[], first.waiting());
    let endpoints = upstreams.iter().flat_map(|one| one.status().endpoints());
    let endpoints: Vec<_> = endpoints.collect();
    let ejected = endpoints.iter().filter(|one| one.ejected.is_some()).count();
    page.gauge(
        "spiffe_upstream_endpoints",
        "Endpoints of upstreams, by whether each is ejected.",
    )
    .value(&[("state", "usable")], endpoints.len() - ejected)
    .value(&[("state", "ejected")], ejected);
    page.gauge(
        "spiffe_upstream_connections_open",
        "Upstream connections that are open: shared ones, and those without a request.",
    )
    .value(
        &[],
        endpoints.iter().map(|one| one.connections).sum::<usize>(),
    );
    page.gauge(
        "spiffe_upstream_requests_in_flight",
        "Requests in flight at upstreams.",
    )
    .value(&[], endpoints.iter().map(|one| one.requests).sum::<usize>());
}

fn counts(counts: &Counts, page: &mut Page) {
    for (name, help, counter) in [
        (
            "spiffe_upstream_requests_total",
            "Times that a request was sent upstream, also again.",
            &counts.requests,
        ),
        (
            "spiffe_upstream_retries_total",
            "Times that a request was sent upstream again after its connection broke.",
            &counts.retries,
        ),
        (
            "spiffe_upstream_ejections_total",
            "Times that a core ejected an endpoint.",
            &counts.ejections,
        ),
    ] {
        page.counter(name, help).value(&[], counter.read());
    }
    let mut connections = page.counter(
        "spiffe_upstream_connections_total",
        "Upstream connections that were opened, by protocol.",
    );
    for (protocol, number) in counts.connections.read_all() {
        connections.value(&[("protocol", protocol.as_str())], number);
    }
}
