//! The metrics of a listener.

use common::{label::Label, reason::Reason};
use serve::{Shared, counts::Counts, reason::ConnectionReason};

use super::page::Page;

/// The reasons of requests, and of connections, that the process has shed to stay within its bounds.
const SHED: [Reason; 4] = [
    Reason::Overloaded,
    Reason::Evicted,
    Reason::Busy,
    Reason::UpstreamFull,
];
const SHED_CONNECTIONS: [ConnectionReason; 2] = [
    ConnectionReason::MaxHandshakes,
    ConnectionReason::MaxConnectionsPerAddress,
];

pub(super) fn write(shared: &Shared, page: &mut Page) {
    let counts = shared.counts();
    requests(counts, page);
    open(shared, page);
    shed(counts, page);
    if let Some(spans) = shared.spans() {
        let mut ends = page.counter(
            "spiffe_spans_total",
            "Spans of requests by their ends: exported, or dropped for a reason.",
        );
        for (end, number) in spans.counts().read_all() {
            ends.value(&[("end", end.as_str())], number);
        }
    }
    connections(counts, page);
    page.counter(
        "spiffe_received_bytes_total",
        "Bytes of HTTP that callers sent, inside TLS.",
    )
    .value(&[], counts.received.read());
    page.counter(
        "spiffe_sent_bytes_total",
        "Bytes of HTTP that callers got, inside TLS.",
    )
    .value(&[], counts.sent.read());
}

fn requests(counts: &Counts, page: &mut Page) {
    let mut requests = page.counter(
        "spiffe_requests_total",
        "Requests by the status of their answers; none if a request ended before its answer began.",
    );
    for (code, number) in counts.answered.read() {
        requests.value(&[("code", &code)], number);
    }
    requests.value(&[("code", "none")], counts.unanswered.read());
    let mut refusals = page.counter(
        "spiffe_refusals_total",
        "Requests that this process answered in place of serving them, by reason.",
    );
    for (reason, number) in counts.refused.read_all() {
        refusals.value(&[("reason", reason.as_str())], number);
    }
    page.histogram(
        "spiffe_time_to_first_byte_seconds",
        "Time from the end of a request's head to the head of its answer.",
        &counts.first_byte.read(),
    );
    page.histogram(
        "spiffe_request_duration_seconds",
        "Time from the end of a request's head to the end of its answer.",
        &counts.duration.read(),
    );
}

fn open(shared: &Shared, page: &mut Page) {
    let open = shared.open();
    page.gauge(
        "spiffe_requests_in_flight",
        "Requests in flight: those that the process works on, and those that wait for their callers.",
    )
    .value(&[("state", "working")], open.working)
    .value(&[("state", "waiting")], open.waiting);
    page.gauge(
        "spiffe_connections_open",
        "Connections of callers that are open, with those in their handshakes.",
    )
    .value(&[], open.connections);
    page.gauge(
        "spiffe_handshakes_open",
        "Handshakes of callers that have begun and not ended.",
    )
    .value(&[], open.handshakes);
}

fn shed(counts: &Counts, page: &mut Page) {
    let mut shed = page.counter(
        "spiffe_shed_total",
        "Requests and connections that were shed to stay within a limit, by cause.",
    );
    for reason in SHED {
        shed.value(&[("cause", reason.as_str())], counts.refused.read(reason));
    }
    for reason in SHED_CONNECTIONS {
        shed.value(&[("cause", reason.as_str())], counts.unserved.read(reason));
    }
}

fn connections(counts: &Counts, page: &mut Page) {
    page.counter(
        "spiffe_connections_total",
        "Connections of callers that were accepted.",
    )
    .value(&[], counts.connections.read());
    let mut handshakes = page.counter(
        "spiffe_handshakes_total",
        "Connections on which HTTP began, by the version of TLS.",
    );
    for (version, number) in counts.handshakes.read_all() {
        handshakes.value(&[("tls", version.as_str())], number);
    }
    let mut failures = page.counter(
        "spiffe_handshake_failures_total",
        "Connections that ended before HTTP began, by reason.",
    );
    for (reason, number) in counts.unserved.read_all() {
        failures.value(&[("reason", reason.as_str())], number);
    }
    let mut protocols = page.counter(
        "spiffe_http_connections_total",
        "Connections on which HTTP began, by protocol.",
    );
    for (protocol, number) in counts.protocols.read_all() {
        protocols.value(&[("protocol", protocol.as_str())], number);
    }
}
