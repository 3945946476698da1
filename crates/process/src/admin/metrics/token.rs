//! The metrics of JWT-SVIDs that are fetched. The audiences are those of the configuration.

use std::{collections::BTreeMap, time::SystemTime};

use common::workload::tokens::TokenStatus;

use super::page::Page;

/// Writes the tokens by audience. Two tokens for one audience are counted together, and the one that expires first
/// has the times.
pub(super) fn write<'a>(all: impl Iterator<Item = (&'a str, TokenStatus)>, page: &mut Page) {
    let tokens = by_audience(all);
    if tokens.is_empty() {
        return;
    }
    let mut fetches = page.counter(
        "spiffe_jwt_svid_fetches_total",
        "Fetches of a JWT-SVID, by audience and result.",
    );
    for (audience, status) in &tokens {
        let labels = |result| [("audience", *audience), ("result", result)];
        fetches
            .value(&labels("success"), status.fetched)
            .value(&labels("failure"), status.failed);
    }
    let mut ages = page.gauge(
        "spiffe_jwt_svid_age_seconds",
        "Time since the current JWT-SVID was fetched.",
    );
    for (audience, status) in &tokens {
        if let Some((since, _)) = status.times {
            let age = SystemTime::now().duration_since(since);
            ages.value(
                &[("audience", audience)],
                age.unwrap_or_default().as_secs_f64(),
            );
        }
    }
    let mut expiries = page.gauge(
        "spiffe_jwt_svid_expiry_timestamp_seconds",
        "Time at which the current JWT-SVID expires.",
    );
    for (audience, status) in &tokens {
        if let Some((_, expiry)) = status.times {
            expiries.time(&[("audience", audience)], expiry);
        }
    }
}

fn by_audience<'a>(
    all: impl Iterator<Item = (&'a str, TokenStatus)>,
) -> BTreeMap<&'a str, TokenStatus> {
    let mut tokens = BTreeMap::<_, TokenStatus>::new();
    for (audience, status) in all {
        let status = match tokens.remove(audience) {
            Some(known) => together(&known, status),
            None => status,
        };
        tokens.insert(audience, status);
    }
    tokens
}

fn together(one: &TokenStatus, other: TokenStatus) -> TokenStatus {
    let times = [one.times, other.times].into_iter().flatten();
    TokenStatus {
        fetched: one.fetched + other.fetched,
        failed: one.failed + other.failed,
        times: times.min_by_key(|(_, expiry)| *expiry),
        ..other
    }
}
