//! The bundles of all trust domains, each the last good one.
//!
//! A fault of one trust domain does not affect the others. A trust domain that a response leaves out
//! is no longer trusted (Workload API §4.4).

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{Digest, SHA256, digest};
use spiffe::TrustDomain;

/// The most trust domains and the most SVIDs of one response.
pub(super) const MAX_ITEMS: usize = 10_000;

/// The bundles of one kind.
#[derive(Debug)]
pub(super) struct Domains<T> {
    domains: BTreeMap<TrustDomain, Domain<T>>,
}

#[derive(Debug)]
struct Domain<T> {
    /// The last good bundle, unless there was none or it is not trusted any more.
    bundle: Option<(Digest, Arc<T>)>,
    /// The fault of what the last response has for this trust domain.
    fault: Option<Fault>,
}

impl<T: PartialEq> Domain<T> {
    /// Takes in a bundle. Returns the one before and the new one, unless both have the same contents. The
    /// bytes may differ then, because SPIRE writes the keys of a bundle in any order.
    fn replace(&mut self, hash: Digest, bundle: T) -> Option<(Option<Arc<T>>, Arc<T>)> {
        match &mut self.bundle {
            Some((known_hash, known)) if **known == bundle => {
                *known_hash = hash;
                None
            }
            known => {
                let after = Arc::new(bundle);
                let before = known.replace((hash, Arc::clone(&after)));
                Some((before.map(|(_, bundle)| bundle), after))
            }
        }
    }
}

impl<T> Domain<T> {
    /// Notes the fault of a response at `now`. Returns it unless the response before had the same.
    fn note_fault(
        &mut self,
        name: &TrustDomain,
        text: String,
        now: SystemTime,
    ) -> Option<NewFault> {
        let known = self.fault.as_ref();
        let is_new = known.is_none_or(|fault| fault.text != text);
        let new = is_new.then(|| NewFault {
            name: name.to_string(),
            text: text.clone(),
            is_trusted: self.bundle.is_some(),
        });
        let since = known.map_or(now, |fault| fault.since);
        self.fault = Some(Fault { text, since });
        new
    }
}

/// A bundle that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    text: String,
    /// The time of the first response in a row that cannot be used.
    since: SystemTime,
}

/// A bundle that came, that was replaced, or that went.
#[derive(Debug)]
pub(super) struct Change<T> {
    pub(super) domain: TrustDomain,
    pub(super) before: Option<Arc<T>>,
    pub(super) after: Option<Arc<T>>,
}

/// A fault that the response before did not have.
#[derive(Debug)]
pub(super) struct NewFault {
    /// The name of the trust domain, or the response's text if that is not one.
    pub(super) name: String,
    pub(super) text: String,
    /// True if an earlier bundle of the trust domain is trusted.
    pub(super) is_trusted: bool,
}

/// The effect of a response.
#[derive(Debug)]
pub(super) struct Applied<T> {
    pub(super) changes: Vec<Change<T>>,
    /// The faults that the response before did not have. A malformed name is among them each time.
    pub(super) faults: Vec<NewFault>,
    /// True if a bundle cannot be used, whether or not the response before had the same fault.
    pub(super) has_fault: bool,
    /// The trust domains that had a fault, and have none now.
    pub(super) mended: Vec<TrustDomain>,
}

impl<T> Default for Domains<T> {
    fn default() -> Self {
        let domains = BTreeMap::new();
        Self { domains }
    }
}

impl<T: PartialEq> Domains<T> {
    /// Applies a response at the time `now`: the bytes of each trust domain's bundle, by its SPIFFE ID.
    pub(super) fn apply<'a, E: ToString>(
        &mut self,
        response: impl Iterator<Item = (&'a str, &'a [u8])>,
        read: impl Fn(&TrustDomain, &[u8]) -> Result<T, E>,
        now: SystemTime,
    ) -> Applied<T> {
        let mut applied = Applied::default();
        let mut named = BTreeSet::new();
        for (name, bytes) in response {
            match TrustDomain::new(name) {
                Ok(domain) => {
                    self.apply_one(&domain, bytes, &read, now, &mut applied);
                    named.insert(domain);
                }
                Err(error) => {
                    applied.has_fault = true;
                    applied.faults.push(NewFault {
                        name: name.to_owned(),
                        text: error.to_string(),
                        is_trusted: false,
                    });
                }
            }
        }
        self.domains.retain(|domain, known| {
            let is_named = named.contains(domain);
            if let (false, Some((_, bundle))) = (is_named, &known.bundle) {
                applied.changes.push(Change {
                    domain: domain.clone(),
                    before: Some(Arc::clone(bundle)),
                    after: None,
                });
            }
            is_named
        });
        applied
    }

    fn apply_one<E: ToString>(
        &mut self,
        name: &TrustDomain,
        bytes: &[u8],
        read: impl Fn(&TrustDomain, &[u8]) -> Result<T, E>,
        now: SystemTime,
        applied: &mut Applied<T>,
    ) {
        let domain = self.domains.entry(name.clone()).or_default();
        let hash = digest(&SHA256, bytes);
        let is_same = |(known, _): &(Digest, _)| known.as_ref() == hash.as_ref();
        if !domain.bundle.as_ref().is_some_and(is_same) {
            match read(name, bytes) {
                Ok(bundle) => {
                    let replaced = domain.replace(hash, bundle);
                    applied
                        .changes
                        .extend(replaced.map(|(before, after)| Change {
                            domain: name.clone(),
                            before,
                            after: Some(after),
                        }));
                }
                Err(error) => {
                    let new = domain.note_fault(name, error.to_string(), now);
                    applied.faults.extend(new);
                    applied.has_fault = true;
                    return;
                }
            }
        }
        if domain.fault.take().is_some() {
            applied.mended.push(name.clone());
        }
    }
}

impl<T> Domains<T> {
    /// Stops the trust in bundles whose successors could not be used for `grace`, at the time `now`.
    /// Returns the changes.
    pub(super) fn expire(&mut self, grace: Duration, now: SystemTime) -> Vec<Change<T>> {
        let domains = self.domains.iter_mut();
        let expired = domains.filter_map(|(name, domain)| {
            let fault = domain.fault.as_ref()?;
            if now < fault.since + grace {
                return None;
            }
            let (_, before) = domain.bundle.take()?;
            Some(Change {
                domain: name.clone(),
                before: Some(before),
                after: None,
            })
        });
        expired.collect()
    }

    /// Returns the next time at which [`Self::expire`] has an effect.
    pub(super) fn next_expiry(&self, grace: Duration) -> Option<SystemTime> {
        let trusted = self.domains.values().filter(|one| one.bundle.is_some());
        let faults = trusted.filter_map(|one| one.fault.as_ref());
        faults.map(|fault| fault.since + grace).min()
    }

    /// Returns the bundles that are trusted.
    pub(super) fn bundles(&self) -> BTreeMap<TrustDomain, Arc<T>> {
        let domains = self.domains.iter();
        domains
            .filter_map(|(name, domain)| {
                let (_, bundle) = domain.bundle.as_ref()?;
                Some((name.clone(), Arc::clone(bundle)))
            })
            .collect()
    }

    /// Returns the trust domains that have a bundle in the last response, but none that is trusted.
    pub(super) fn unusable(&self) -> BTreeSet<TrustDomain> {
        let domains = self.domains.iter();
        let unusable = domains.filter(|(_, domain)| domain.bundle.is_none());
        unusable.map(|(name, _)| name.clone()).collect()
    }

    /// Returns the fault of a trust domain's bundle, and the time since which it exists.
    pub(super) fn fault(&self, domain: &TrustDomain) -> Option<(&str, SystemTime)> {
        let fault = self.domains.get(domain)?.fault.as_ref()?;
        Some((&fault.text, fault.since))
    }

    /// Returns the trust domains whose bundle in the last response cannot be used.
    pub(super) fn faults(&self) -> impl Iterator<Item = (&TrustDomain, &str, SystemTime)> {
        let domains = self.domains.iter();
        domains.filter_map(|(name, domain)| {
            let fault = domain.fault.as_ref()?;
            Some((name, &*fault.text, fault.since))
        })
    }

    /// Returns whether a trust domain has a bundle that is trusted.
    pub(super) fn trusts(&self, domain: &TrustDomain) -> bool {
        let known = self.domains.get(domain);
        known.is_some_and(|known| known.bundle.is_some())
    }
}

impl<T> Default for Applied<T> {
    fn default() -> Self {
        Self {
            changes: Vec::new(),
            faults: Vec::new(),
            has_fault: false,
            mended: Vec::new(),
        }
    }
}

impl<T> Default for Domain<T> {
    fn default() -> Self {
        Self {
            bundle: None,
            fault: None,
        }
    }
}
