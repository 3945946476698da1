//! Warnings at the start about trust domains that have no bundle here.

use std::collections::BTreeSet;

use spiffe::{BundleSource, TrustDomain};
use tracing::warn;

/// Warns of each trust domain in a flag's values that has no bundle of this kind. Its workloads can't be
/// verified, and each request would fail.
pub fn warn_of_missing<'a, B: BundleSource>(
    bundles: &B,
    kind: &str,
    flag: &str,
    trust_domains: impl IntoIterator<Item = &'a TrustDomain>,
) {
    for domain in missing(bundles, trust_domains) {
        warn!(
            "no {kind} bundle for trust domain {domain} of {flag}, so that its workloads are refused until one comes; \
             federate with it, and register this process with -federatesWith spiffe://{domain}"
        );
    }
}

/// Returns the trust domains without a bundle. A source that fails has its own log line.
pub(crate) fn missing<'a, B: BundleSource>(
    bundles: &B,
    trust_domains: impl IntoIterator<Item = &'a TrustDomain>,
) -> BTreeSet<&'a TrustDomain> {
    let is_missing = |domain: &&TrustDomain| {
        let bundle = bundles.bundle_for_trust_domain(domain);
        matches!(bundle, Ok(None))
    };
    trust_domains.into_iter().filter(is_missing).collect()
}

#[cfg(test)]
mod tests {
    use spiffe::{JwtBundle, JwtBundleSet};

    use super::*;

    #[test]
    fn each_trust_domain_without_a_bundle_is_found_once() {
        let domain = |name| TrustDomain::new(name).unwrap();
        let known = domain("example.org");
        let mut bundles = JwtBundleSet::new();
        bundles.add_bundle(JwtBundle::new(known.clone()));
        let (a, b) = (domain("a.example"), domain("b.example"));
        let found = missing(&bundles, [&b, &known, &a, &b]);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [&a, &b]);
    }
}
