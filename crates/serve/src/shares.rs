//! Bounds on what callers compete for, in all and per source.
//!
//! Over the total bound, the source with the largest share loses first. Its oldest holder is evicted for
//! a new one from a source that has fewer. A source that uses the whole bound therefore does not keep
//! others out. A [`tokio::sync::Semaphore`] bounds the total too, but it knows no sources and evicts no
//! holder.

use std::{
    collections::{BTreeMap, HashMap},
    future::poll_fn,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll},
};

use common::{lock::lock, throttle::Episode};
use futures_util::task::AtomicWaker;

/// One bound, in all and per source. Clones share its counts.
#[derive(Clone, Debug)]
pub struct Shares(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    total: usize,
    per_source: usize,
    own: Own,
    /// Logs that the total bound was exceeded.
    exceeded: Option<Arc<Episode>>,
    holders: AtomicUsize,
    next: AtomicU64,
    sources: Mutex<HashMap<IpAddr, Entry>>,
}

/// The rule for a new holder over the total bound whose own source has the largest share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// The new holder is refused.
    Refused,
    /// The source's oldest holder is evicted.
    Evicted,
}

#[derive(Debug)]
struct Source {
    address: IpAddr,
    count: AtomicUsize,
    /// The evictions of the holders, by age.
    holders: Mutex<BTreeMap<u64, Arc<Eviction>>>,
}

/// A source and the number of its [`Share`]s.
#[derive(Debug)]
struct Entry {
    source: Arc<Source>,
    shares: usize,
}

/// A source's part in a bound. A connection looks it up once.
#[derive(Debug)]
pub struct Share {
    shares: Shares,
    source: Arc<Source>,
}

/// The permit of one holder, until it is dropped.
#[derive(Debug)]
pub struct Held {
    share: Arc<Share>,
    number: u64,
}

/// Tells a holder that it is evicted. One task at a time waits for it.
#[derive(Debug, Default)]
pub struct Eviction {
    evicted: AtomicBool,
    waker: AtomicWaker,
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
    pub fn new(total: usize, per_source: usize, own: Own) -> Self {
        Self(Arc::new(Inner {
            total,
            per_source,
            own,
            exceeded: None,
            holders: AtomicUsize::new(0),
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

    /// Returns the share of `source`.
    pub fn of(&self, source: IpAddr) -> Arc<Share> {
        let mut sources = lock(&self.0.sources);
        let entry = sources.entry(source).or_insert_with(|| Entry {
            source: Arc::new(Source {
                address: source,
                count: AtomicUsize::new(0),
                holders: Mutex::default(),
            }),
            shares: 0,
        });
        entry.shares += 1;
        Arc::new(Share {
            shares: self.clone(),
            source: Arc::clone(&entry.source),
        })
    }

    /// Returns the number of holders.
    pub fn count(&self) -> usize {
        self.0.holders.load(Relaxed)
    }

    /// Evicts the oldest holder of the source with the largest share, if `source` has at least two fewer.
    /// Returns whether it did.
    pub fn evict_for(&self, source: IpAddr) -> bool {
        let (own, largest) = {
            let sources = lock(&self.0.sources);
            let own = sources
                .get(&source)
                .map_or(0, |entry| entry.source.count.load(Relaxed));
            let largest = sources.values().map(|entry| &entry.source);
            (
                own,
                largest
                    .max_by_key(|source| source.count.load(Relaxed))
                    .cloned(),
            )
        };
        largest.is_some_and(|largest| {
            largest.count.load(Relaxed) > own + 1 && largest.evict_oldest(self)
        })
    }

    /// Evicts the oldest holder of the source with the largest share, if that is larger than `own`.
    /// This is the count of the `newcomer`'s source, including the new holder. Returns whether it did.
    fn make_room(&self, newcomer: &Source, own: usize) -> bool {
        if let Some(exceeded) = &self.0.exceeded {
            exceeded.note();
        }
        let largest = {
            let sources = lock(&self.0.sources);
            let largest = sources
                .values()
                .map(|entry| &entry.source)
                .max_by_key(|source| (source.count.load(Relaxed), source.address));
            largest.cloned()
        };
        let Some(largest) = largest else {
            return false;
        };
        let is_larger = largest.count.load(Relaxed) > own;
        let is_own = std::ptr::eq(&*largest, newcomer) || !is_larger;
        match (is_own, self.0.own) {
            (false, _) => largest.evict_oldest(self),
            (true, Own::Evicted) => newcomer.evict_oldest(self) || largest.evict_oldest(self),
            (true, Own::Refused) => false,
        }
    }
}

impl Source {
    fn evict_oldest(&self, shares: &Shares) -> bool {
        let Some((_, eviction)) = lock(&self.holders).pop_first() else {
            return false;
        };
        self.count.fetch_sub(1, Relaxed);
        shares.0.holders.fetch_sub(1, Relaxed);
        eviction.evict();
        true
    }
}

impl Share {
    /// Admits a holder. `eviction` tells it when it is evicted.
    ///
    /// # Errors
    /// Fails when the holder is one too many and no other source has more.
    pub fn enter(self: &Arc<Self>, eviction: &Arc<Eviction>) -> Result<Held, Full> {
        let (inner, source) = (&self.shares.0, &self.source);
        let own = source.count.fetch_add(1, Relaxed) + 1;
        let all = inner.holders.fetch_add(1, Relaxed) + 1;
        let full = if own > inner.per_source {
            Some(Full::Source)
        } else if all > inner.total && !self.shares.make_room(source, own) {
            Some(Full::All)
        } else {
            None
        };
        if let Some(full) = full {
            source.count.fetch_sub(1, Relaxed);
            inner.holders.fetch_sub(1, Relaxed);
            return Err(full);
        }
        Ok(self.hold(eviction))
    }

    /// Admits a holder that was admitted before, even over the bound.
    pub fn enter_again(self: &Arc<Self>, eviction: &Arc<Eviction>) -> Held {
        self.source.count.fetch_add(1, Relaxed);
        self.shares.0.holders.fetch_add(1, Relaxed);
        self.hold(eviction)
    }

    fn hold(self: &Arc<Self>, eviction: &Arc<Eviction>) -> Held {
        let number = self.shares.0.next.fetch_add(1, Relaxed);
        lock(&self.source.holders).insert(number, Arc::clone(eviction));
        Held {
            share: Arc::clone(self),
            number,
        }
    }
}

/// Removes the source from the table with its last share.
impl Drop for Share {
    fn drop(&mut self) {
        let mut sources = lock(&self.shares.0.sources);
        let Some(entry) = sources.get_mut(&self.source.address) else {
            return;
        };
        entry.shares -= 1;
        if entry.shares == 0 {
            sources.remove(&self.source.address);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Share { shares, source } = &*self.share;
        // An evicted holder is no longer counted.
        if lock(&source.holders).remove(&self.number).is_some() {
            source.count.fetch_sub(1, Relaxed);
            shares.0.holders.fetch_sub(1, Relaxed);
        }
    }
}

impl Eviction {
    fn evict(&self) {
        self.evicted.store(true, SeqCst);
        self.waker.wake();
    }

    /// Returns whether the holder is evicted.
    pub fn is_evicted(&self) -> bool {
        self.evicted.load(SeqCst)
    }

    /// Polls whether the holder is evicted.
    pub fn poll_evicted(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.is_evicted() {
            self.waker.register(cx.waker());
        }
        match self.is_evicted() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Waits until the holder is evicted.
    pub async fn evicted(&self) {
        poll_fn(|cx| self.poll_evicted(cx)).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    struct Holder {
        _held: Held,
        eviction: Arc<Eviction>,
    }

    impl Holder {
        fn is_evicted(&self) -> bool {
            self.eviction.evicted().now_or_never().is_some()
        }
    }

    fn enter(shares: &Shares, source: &str) -> Result<Holder, Full> {
        let eviction = Arc::default();
        let held = shares.of(source.parse().unwrap()).enter(&eviction)?;
        Ok(Holder {
            _held: held,
            eviction,
        })
    }

    #[test]
    fn the_largest_source_loses_its_oldest_holder_to_a_smaller_one() {
        let shares = Shares::new(4, 9, Own::Refused);
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
        assert_eq!(shares.0.holders.load(Relaxed), 0);
        assert!(
            lock(&shares.0.sources).is_empty(),
            "sources without holders are removed"
        );
    }

    #[test]
    fn with_own_evicted_a_source_loses_its_oldest_holder_to_a_new_one() {
        let shares = Shares::new(2, 2, Own::Evicted);
        let other = enter(&shares, "192.0.2.2").unwrap();
        let first = enter(&shares, "192.0.2.1").unwrap();
        let second = enter(&shares, "192.0.2.1").unwrap();
        assert!(first.is_evicted() && !second.is_evicted() && !other.is_evicted());
    }

    #[test]
    fn a_source_has_its_own_bound() {
        let shares = Shares::new(9, 2, Own::Refused);
        let held = [
            enter(&shares, "::1").unwrap(),
            enter(&shares, "::1").unwrap(),
        ];
        assert_eq!(enter(&shares, "::1").err(), Some(Full::Source));
        assert!(enter(&shares, "::2").is_ok());
        drop(held);
        assert!(enter(&shares, "::1").is_ok(), "a dropped permit makes room");
    }
}
