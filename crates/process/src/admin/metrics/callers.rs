//! The metrics of an authenticator.

use common::{bearer::Counts, label::Label};

use super::page::Page;

pub(super) fn write(counts: &Counts, page: &mut Page) {
    let mut verifications = page.counter(
        "spiffe_verifications_total",
        "Requests by the verification of their callers: the credential, or the reason of the refusal.",
    );
    for (credential, number) in counts.accepted.read_all() {
        let labels = [("result", credential.as_str()), ("reason", "")];
        verifications.value(&labels, number);
    }
    for (reason, number) in counts.refused.read_all() {
        let labels = [("result", "refused"), ("reason", reason.as_str())];
        verifications.value(&labels, number);
    }
    page.histogram(
        "spiffe_verification_duration_seconds",
        "Time to verify a token that was not in the cache.",
        &counts.verification.read(),
    );
    page.gauge(
        "spiffe_verifications_waiting",
        "Tokens that wait to be verified.",
    )
    .value(&[], counts.waiting.read());
    write_cache(counts, page);
}

/// Writes the metrics of the token cache.
fn write_cache(counts: &Counts, page: &mut Page) {
    for (name, help, counter) in [
        (
            "spiffe_token_cache_hits_total",
            "Tokens that were found in the cache.",
            &counts.cache_hits,
        ),
        (
            "spiffe_token_cache_misses_total",
            "Tokens that were not found in the cache.",
            &counts.cache_misses,
        ),
        (
            "spiffe_token_cache_evictions_total",
            "Tokens that left the cache for others.",
            &counts.cache_evictions,
        ),
    ] {
        page.counter(name, help).value(&[], counter.read());
    }
}
