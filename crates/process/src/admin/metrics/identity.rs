//! The metrics of an identity.

use common::{
    label::Label,
    workload::{Kind, Monitor, Overview, StreamState},
};

use super::page::Page;

pub(super) fn write(monitor: &Monitor, page: &mut Page) {
    let overview = monitor.overview();
    expiries(&overview, page);
    let domains = |kind| overview.trusted(kind).map_or(0, |domains| domains.len());
    page.gauge(
        "spiffe_trust_domains",
        "Trust domains whose bundles are in use, by the kind of the bundle.",
    )
    .value(&[("kind", "x509")], domains(Kind::X509))
    .value(&[("kind", "jwt")], domains(Kind::Jwt));
    let mut up = page.gauge(
        "spiffe_workload_api_stream_up",
        "1 while a stream of the Workload API delivers.",
    );
    for status in &overview.streams {
        let is_up = status.state == StreamState::Up;
        up.value(&[("stream", status.stream.as_str())], u8::from(is_up));
    }
    let counts = monitor.counts();
    for (name, help, counters) in [
        (
            "spiffe_workload_api_updates_total",
            "Messages of the Workload API that were applied.",
            &counts.updates,
        ),
        (
            "spiffe_workload_api_rejected_updates_total",
            "Messages of the Workload API that could not be used, as a whole, in their X.509-SVID or in a bundle.",
            &counts.rejected,
        ),
    ] {
        let mut family = page.counter(name, help);
        for (stream, number) in counters.read_all() {
            family.value(&[("stream", stream.as_str())], number);
        }
    }
}

/// Writes the times at which the X.509-SVID and the last authority of the own trust domain expire. The keys of a
/// JWT bundle have no expiry.
fn expiries(overview: &Overview, page: &mut Page) {
    if let Some(svid) = overview.svid() {
        page.gauge(
            "spiffe_x509_svid_expiry_timestamp_seconds",
            "Time at which the X.509-SVID expires.",
        )
        .time(&[], svid.expiry());
    }
    let Some(own) = &overview.own else {
        return;
    };
    let authorities = overview.authorities(Kind::X509, own);
    if let Some(last) = authorities.iter().filter_map(|one| one.expiry).max() {
        page.gauge(
            "spiffe_x509_authority_expiry_timestamp_seconds",
            "Time at which the last X.509 authority of the own trust domain expires.",
        )
        .time(&[], last);
    }
    page.gauge(
        "spiffe_jwt_authorities",
        "JWT authorities of the own trust domain.",
    )
    .value(&[], overview.authorities(Kind::Jwt, own).len());
}
