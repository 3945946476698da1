//! The cost of a request over the bound, which compares the shares of all sources.
//!
//! ```sh
//! cargo bench -p serve
//! ```
#![allow(clippy::unwrap_used, reason = "a bench that fails should stop")]

use std::{net::Ipv4Addr, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use serve::shares::{Eviction, OnFull, Shares};

/// Measures a holder that is refused next to sources with one holder each. Its own source has the largest share.
fn refused(criterion: &mut Criterion) {
    for sources in [100, 10_000] {
        let shares = Shares::new(sources as usize, usize::MAX, OnFull::Refuse);
        let share = |number| shares.of(Ipv4Addr::from_bits(number).into());
        let eviction = Arc::<Eviction>::default();
        let flood = share(0);
        let enter = |number| share(number).enter(&eviction).unwrap();
        let _permits: Vec<_> = (1..sources).map(enter).collect();
        let _own = flood.enter(&eviction).unwrap();
        criterion.bench_function(&format!("refused next to {sources} sources"), |bencher| {
            bencher.iter(|| flood.enter(&eviction).unwrap_err());
        });
    }
}

criterion_group!(benches, refused);
criterion_main!(benches);
