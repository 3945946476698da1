//! Who has nothing to do lets others go first. A core that went to sleep would be woken by the first
//! request that comes, in the middle of its sender's work, and find just that one to do. If it gives the
//! CPU to whoever is waiting for it first, all that they send is there when it goes on, and one sleep,
//! one wake-up and one write serve many requests.

use std::{
    cell::Cell,
    thread,
    time::{Duration, Instant},
};

/// A turn that took longer went to somebody who computes without a pause. To wait for those costs more
/// than larger batches give: a core that sleeps is woken before them.
const LONG: Duration = Duration::from_millis(2);

/// How long a core keeps its turns after a long one. The kernel runs a thread for some 3 ms when others
/// wait, so what such neighbours cost is a thirtieth of the time.
const KEEP: Duration = Duration::from_millis(100);

thread_local! {
    static KEPT_UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Lets the threads that wait for this CPU run, unless that took long a moment ago.
pub(super) fn give() {
    let begin = Instant::now();
    if KEPT_UNTIL.get().is_some_and(|until| begin < until) {
        return;
    }
    thread::yield_now();
    KEPT_UNTIL.set(kept_until(begin, Instant::now()));
}

/// Until when to keep turns after one from `begin` to `end`.
fn kept_until(begin: Instant, end: Instant) -> Option<Instant> {
    (end - begin > LONG).then(|| end + KEEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_long_turn_the_next_ones_are_kept() {
        let begin = Instant::now();
        assert_eq!(kept_until(begin, begin), None);
        assert_eq!(kept_until(begin, begin + LONG), None);
        let end = begin + LONG + Duration::from_micros(1);
        assert_eq!(kept_until(begin, end), Some(end + KEEP));
    }
}
