//! The cost of an addition by two threads: to one integer, and to a counter with cells of their own.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::Instant,
};

use common::count::Counter;

/// The rounds of each row. The rows take turns, because the machine also has other work.
const ROUNDS: usize = 25;

/// Additions of each thread in a round.
const ADDITIONS: u32 = 2_000_000;

fn main() {
    let (integer, counter) = (AtomicU64::new(0), Counter::default());
    let mut rounds: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let one = nanos(|| {
                integer.fetch_add(1, Relaxed);
            });
            (one, nanos(|| counter.add(1)))
        })
        .collect();
    let mut median = |of: fn(&(f64, f64)) -> f64| {
        rounds.sort_by(|a, b| of(a).total_cmp(&of(b)));
        of(&rounds[ROUNDS / 2])
    };
    println!("one integer: {:.1} ns", median(|round| round.0));
    println!("own cells: {:.1} ns", median(|round| round.1));
}

/// Returns the time of an addition while two threads add.
fn nanos(add: impl Fn() + Sync) -> f64 {
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..ADDITIONS).for_each(|_| add()));
        }
    });
    start.elapsed().as_nanos() as f64 / f64::from(ADDITIONS)
}
