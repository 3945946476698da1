//! Bounds on what callers compete for, in all and per source.
//!
//! Over the total bound, the source with the largest share loses first. Its oldest holder is evicted for
//! a new one from a source that has fewer. A source that uses the whole bound therefore does not keep
//! others out. A [`tokio::sync::Semaphore`] bounds the total too, but it knows no sources and evicts no
//! holder.

mod eviction;
mod sources;

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use common::{lock::lock, throttle::Episode};

pub use self::eviction::Eviction;
use self::sources::{Source, Sources};

/// One bound, in all and per source. Clones share its counts.
#[derive(Clone, Debug)]
pub struct Shares(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    total: usize,
    per_source: usize,
    on_full: OnFull,
    /// Logs that the total bound was exceeded.
    exceeded: Option<Arc<Episode>>,
    /// The permits of all sources.
    permits: AtomicUsize,
    next: AtomicU64,
    sources: Mutex<Sources>,
}

/// The rule for a new holder over the total bound whose own source has the largest share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// The new holder is refused.
    Refuse,
    /// The oldest holder of its source is evicted, or that of the source with the largest share if the own
    /// has none.
    EvictOwnOldest,
}

/// A handle to a source's count in a bound. A connection takes one, and keeps it.
#[derive(Debug)]
pub struct Share {
    shares: Shares,
    source: Arc<Source>,
}

/// The permit of one holder, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    share: Arc<Share>,
    number: u64,
}

/// The bound that refused a new holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The bound per source.
    Source,
    /// The total bound, while no other source has more holders.
    All,
}

impl Shares {
    /// Returns a bound of `total` holders in all and `per_source` of one source.
    pub fn new(total: usize, per_source: usize, on_full: OnFull) -> Self {
        Self(Arc::new(Inner {
            total,
            per_source,
            on_full,
            exceeded: None,
            permits: AtomicUsize::new(0),
            next: AtomicU64::new(0),
            sources: Mutex::default(),
        }))
    }

    /// Returns this unused bound with log lines about holders that are refused or evicted.
    #[must_use]
    pub fn logged_by(mut self, exceeded: Arc<Episode>) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.exceeded = Some(exceeded);
        }
        self
    }

    /// Returns the share of `source`, which is the network of an address ([`common::source::network`]).
    pub fn of(&self, source: IpAddr) -> Arc<Share> {
        Arc::new(Share {
            shares: self.clone(),
            source: lock(&self.0.sources).take(source),
        })
    }

    /// Returns the number of holders.
    pub fn count(&self) -> usize {
        self.0.permits.load(Relaxed)
    }

    /// Evicts the oldest holder of the source with the largest share, if `source` has at least two fewer.
    /// Returns whether it did.
    pub fn evict_for(&self, source: IpAddr) -> bool {
        let (own, largest) = {
            let sources = lock(&self.0.sources);
            (sources.permits_of(source), sources.largest())
        };
        largest.is_some_and(|(largest, most)| most > own + 1 && self.evict_oldest(&largest))
    }

    /// Evicts a holder for a new one of the source `own`, which has `own_holders` with the new one. The oldest
    /// holder of the source with the largest share is evicted. If no source has more than `own`, [`OnFull`]
    /// decides. Returns whether a holder was evicted.
    fn make_room(&self, own: &Source, own_holders: usize) -> bool {
        if let Some(exceeded) = &self.0.exceeded {
            exceeded.note();
        }
        let largest = lock(&self.0.sources).largest();
        let Some((largest, most)) = largest else {
            return false;
        };
        let nobody_is_larger = std::ptr::eq(&*largest, own) || most <= own_holders;
        match (nobody_is_larger, self.0.on_full) {
            (false, _) => self.evict_oldest(&largest),
            (true, OnFull::EvictOwnOldest) => self.evict_oldest(own) || self.evict_oldest(&largest),
            (true, OnFull::Refuse) => false,
        }
    }

    /// Evicts the oldest holder of `source`. Returns whether there was one.
    fn evict_oldest(&self, source: &Source) -> bool {
        let Some(eviction) = source.take_oldest() else {
            return false;
        };
        self.0.permits.fetch_sub(1, Relaxed);
        eviction.evict();
        true
    }
}

impl Share {
    /// Admits a holder. `eviction` tells it when it is evicted.
    ///
    /// # Errors
    /// Fails over the bound of the source. Over the total bound, fails if no holder can be evicted for it.
    pub fn enter(self: &Arc<Self>, eviction: &Arc<Eviction>) -> Result<Permit, Full> {
        let (inner, source) = (&self.shares.0, &self.source);
        let of_source = source.permits().fetch_add(1, Relaxed) + 1;
        let of_all = inner.permits.fetch_add(1, Relaxed) + 1;
        let full = if of_source > inner.per_source {
            Some(Full::Source)
        } else if of_all > inner.total && !self.shares.make_room(source, of_source) {
            Some(Full::All)
        } else {
            None
        };
        if let Some(full) = full {
            source.permits().fetch_sub(1, Relaxed);
            inner.permits.fetch_sub(1, Relaxed);
            return Err(full);
        }
        Ok(self.hold(eviction))
    }

    /// Admits a holder that was admitted before, even over the bound.
    pub fn enter_again(self: &Arc<Self>, eviction: &Arc<Eviction>) -> Permit {
        self.source.permits().fetch_add(1, Relaxed);
        self.shares.0.permits.fetch_add(1, Relaxed);
        self.hold(eviction)
    }

    fn hold(self: &Arc<Self>, eviction: &Arc<Eviction>) -> Permit {
        let number = self.shares.0.next.fetch_add(1, Relaxed);
        lock(&self.source.evictions).insert(number, Arc::clone(eviction));
        Permit {
            share: Arc::clone(self),
            number,
        }
    }
}

/// Removes the source with its last share.
impl Drop for Share {
    fn drop(&mut self) {
        lock(&self.shares.0.sources).release(self.source.address);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Share { shares, source } = &*self.share;
        // An evicted holder is no longer counted.
        if lock(&source.evictions).remove(&self.number).is_some() {
            source.permits().fetch_sub(1, Relaxed);
            shares.0.permits.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    struct Holder {
        _permit: Permit,
        eviction: Arc<Eviction>,
    }

    impl Holder {
        fn is_evicted(&self) -> bool {
            self.eviction.evicted().now_or_never().is_some()
        }
    }

    fn enter(shares: &Shares, source: &str) -> Result<Holder, Full> {
        let eviction = Arc::default();
        let permit = shares.of(source.parse().unwrap()).enter(&eviction)?;
        Ok(Holder {
            _permit: permit,
            eviction,
        })
    }

    #[test]
    fn the_largest_source_loses_its_oldest_holder_to_a_smaller_one() {
        let shares = Shares::new(4, 9, OnFull::Refuse);
        let flood: Vec<_> = (0..4)
            .map(|_| enter(&shares, "192.0.2.1").unwrap())
            .collect();
        assert_eq!(enter(&shares, "192.0.2.1").err(), Some(Full::All));
        let one = enter(&shares, "192.0.2.2").unwrap();
        let two = enter(&shares, "192.0.2.2").unwrap();
        let evicted: Vec<_> = flood.iter().map(Holder::is_evicted).collect();
        assert_eq!(evicted, [true, true, false, false]);
        // Both sources have two holders, so that no eviction would be fair.
        assert_eq!(enter(&shares, "192.0.2.2").err(), Some(Full::All));
        assert_eq!(enter(&shares, "192.0.2.1").err(), Some(Full::All));
        assert!(!one.is_evicted() && !two.is_evicted());
        let third = enter(&shares, "192.0.2.3").unwrap();
        drop((flood, one, two, third));
        assert_eq!(shares.0.permits.load(Relaxed), 0);
        assert!(
            lock(&shares.0.sources).is_empty(),
            "sources without holders are removed"
        );
    }

    #[test]
    fn with_own_evicted_a_source_loses_its_oldest_holder_to_a_new_one() {
        let shares = Shares::new(2, 2, OnFull::EvictOwnOldest);
        let other = enter(&shares, "192.0.2.2").unwrap();
        let first = enter(&shares, "192.0.2.1").unwrap();
        let second = enter(&shares, "192.0.2.1").unwrap();
        assert!(first.is_evicted() && !second.is_evicted() && !other.is_evicted());
    }

    #[test]
    fn a_source_has_its_own_bound() {
        let shares = Shares::new(9, 2, OnFull::Refuse);
        let held = [
            enter(&shares, "2001:db8::").unwrap(),
            enter(&shares, "2001:db8::").unwrap(),
        ];
        assert_eq!(enter(&shares, "2001:db8::").err(), Some(Full::Source));
        assert!(enter(&shares, "2001:db8:0:1::").is_ok());
        drop(held);
        assert!(
            enter(&shares, "2001:db8::").is_ok(),
            "a dropped permit makes room"
        );
    }
}
