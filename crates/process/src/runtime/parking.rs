//! The yield of a core before it parks.
//!
//! The next request wakes a core that is parked. That happens in the middle of the sender's work, so
//! the core finds only that request. A core that first yields the CPU to the waiting threads finds
//! everything that they sent. Then one park, one wake-up and one write serve many requests.
//!
//! tokio offers only the hook before a park
//! ([`on_thread_park`](tokio::runtime::Builder::on_thread_park)) and no setting that delays the
//! park. The kernel's `SCHED_BATCH` saves as much CPU time, but a core then waits behind programs
//! that never pause.
//!
//! Measured with wrk through proxy and server on one machine, without and with the yield:
//!
//! | load | without | with |
//! |---|---|---|
//! | 32 connections, CPU time per request | 31.5 µs | 29.1 µs |
//! | 32 connections, requests/s | 40,794 | 45,757 |
//! | next to two busy loops, requests/s | 19,566 | 19,586 |
//!
//! HTTP/2 and 512 connections were the same. Next to two busy loops it was 8,038 requests/s without
//! the pause after [`LONG_YIELD`]. Next to twenty busy threads the yield neither saves nor costs: a request
//! took the server 7.0 µs without it and 7.2 µs with it (`h2load --h1 -n 60000 -c 32`, medians of 9 rounds).

use std::{
    cell::Cell,
    thread,
    time::{Duration, Instant},
};

/// The longest yield that is worth it. After a longer one, another program runs without a pause,
/// and waiting for it costs more than larger batches save.
const LONG_YIELD: Duration = Duration::from_millis(2);

/// The time without yields after a long one. The kernel runs a thread for about 3 ms when others
/// wait, so such programs cost a thirtieth of the time.
const PAUSE: Duration = Duration::from_millis(100);

thread_local! {
    static PAUSED_UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Lets the threads that wait for this CPU run, unless a recent yield took long.
pub(super) fn yield_before_park() {
    let begin = Instant::now();
    if PAUSED_UNTIL.get().is_some_and(|until| begin < until) {
        return;
    }
    thread::yield_now();
    PAUSED_UNTIL.set(paused_until(begin, Instant::now()));
}

/// Returns the end of the pause after a yield from `begin` to `end`.
fn paused_until(begin: Instant, end: Instant) -> Option<Instant> {
    (end - begin > LONG_YIELD).then(|| end + PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_yield_pauses_the_next_ones() {
        let begin = Instant::now();
        assert_eq!(paused_until(begin, begin), None);
        assert_eq!(paused_until(begin, begin + LONG_YIELD), None);
        let end = begin + LONG_YIELD + Duration::from_micros(1);
        assert_eq!(paused_until(begin, end), Some(end + PAUSE));
    }
}
