//! A queue of verifications that lets a core do other work between them.
//!
//! A verification takes about as long as a hundred tokens in the [cache](super::cache), which has the figures. It
//! never yields, so that on a runtime of one thread a flood of new tokens would occupy the core. Verifications
//! therefore run in rounds. A round lasts for [`ROUND`]; after it, all other tasks of the core that are ready run
//! once, and the next round begins. Two bounds apply:
//!
//! - At most [`MAX_ADMITTED`] verifications are admitted to the current or the next round.
//! - At most [`MAX_WAITING`] verifications wait to be admitted. They are served source by source; over
//!   the bound, the source with the most waiting verifications loses its last one.
//!
//! # Alternatives
//!
//! [`tokio::sync::Semaphore`] bounds how many tasks proceed, but admits them in the order of arrival
//! and knows no rounds (see [`crate::fair`]). `tokio::task::coop` limits the operations of one task,
//! while a flood consists of many tasks. `spawn_blocking` moves verifications to other threads, which
//! would compete with the one thread that each core has.
//!
//! # Measurements
//!
//! - While 400 forged tokens were in flight, a known token was answered in 152 ms without the queue
//!   and in 0.5 ms with it (`tests/limits/load.rs`, debug build).
//! - A request with a new token (`scripts/bench.sh --rows new-tokens`) took 97 µs of CPU without a queue,
//!   and 164 µs with a yield after each verification. Rounds of 1 ms took 115 µs, and 32 admitted
//!   verifications in them 104 µs. The p99 latencies of the last three were 7.4 ms, 4.4 ms and 4.0 ms.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use tokio::{task::yield_now, time::Instant};

use super::refusal::Refusal;
use crate::fair::{FairQueue, TooMany};

/// The verifications of one core, in rounds.
#[derive(Debug)]
pub(super) struct VerificationQueue {
    /// The verifications that wait to be admitted.
    waiting: FairQueue,
    /// The number of verifications that are admitted to this round or the next.
    admitted: AtomicUsize,
    max_admitted: usize,
    round: Duration,
    /// The number of rounds that have begun after the first.
    rounds: AtomicU64,
    /// The time that the verifications of this round have taken, in ns.
    spent: AtomicU64,
}

/// The permit to verify one token.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    queue: &'a VerificationQueue,
    begun: Instant,
    _admitted: Admitted<'a>,
}

/// A verification that is admitted to this round or the next. When it is dropped, the next waiting
/// verification is admitted.
#[derive(Debug)]
struct Admitted<'a>(&'a VerificationQueue);

/// The largest number of verifications that wait on one core. At 100 µs each, the last of them is
/// answered after 0.2 s, which is later than most callers want to wait.
pub const MAX_WAITING: usize = 2000;

/// The time that verifications take before the other tasks run. A request with a known token waits for
/// at most this and one verification. A yield after each verification costs as much as the
/// verification. The runtime polls the kernel, and answers leave one by one instead of in batches.
const ROUND: Duration = Duration::from_millis(1);

/// The largest number of admitted verifications. With one, each answer would be written before the next
/// verification, and the answers would not leave in batches.
const MAX_ADMITTED: usize = 32;

impl VerificationQueue {
    fn with(max: usize, max_admitted: usize, round: Duration) -> Self {
        Self {
            waiting: FairQueue::new(max),
            admitted: AtomicUsize::new(0),
            max_admitted,
            round,
            rounds: AtomicU64::new(0),
            spent: AtomicU64::new(0),
        }
    }

    /// Waits for the permit to verify one token of a caller from `source`.
    ///
    /// # Errors
    /// Fails when [`MAX_WAITING`] verifications wait and no other source has more of them.
    pub(super) async fn permit(&self, source: IpAddr) -> Result<Permit<'_>, Refusal> {
        let admitted = self.admit(source).await?;
        while Duration::from_nanos(self.spent.load(Relaxed)) > self.round {
            let round = self.rounds.load(Relaxed);
            // Continues after all ready tasks have run and the runtime has polled the kernel for more.
            yield_now().await;
            // The first verification that continues begins the next round.
            if self.rounds.load(Relaxed) == round {
                self.rounds.store(round + 1, Relaxed);
                self.spent.store(0, Relaxed);
            }
        }
        Ok(Permit {
            queue: self,
            begun: Instant::now(),
            _admitted: admitted,
        })
    }

    async fn admit(&self, source: IpAddr) -> Result<Admitted<'_>, Refusal> {
        if self.admitted.load(Relaxed) < self.max_admitted {
            self.admitted.fetch_add(1, Relaxed);
            return Ok(Admitted(self));
        }
        let unclaimed = || drop(Admitted(self));
        let waited = self.waiting.wait(source, &unclaimed).await;
        waited.map_err(|TooMany(max)| Refusal::Busy(max))?;
        // The verification that called this one left its count in `admitted`.
        Ok(Admitted(self))
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if !self.0.waiting.call_next() {
            self.0.admitted.fetch_sub(1, Relaxed);
        }
    }
}

impl Default for VerificationQueue {
    fn default() -> Self {
        Self::with(MAX_WAITING, MAX_ADMITTED, ROUND)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let nanos = self.begun.elapsed().as_nanos();
        let nanos = nanos.try_into().unwrap_or(u64::MAX / 2);
        self.queue.spent.fetch_add(nanos, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        pin::pin,
        rc::Rc,
        task::{Context, Poll, Waker},
    };

    use tokio::task::LocalSet;

    use super::*;

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// The time that a verification takes.
    const ONE: Duration = Duration::from_micros(100);

    #[tokio::test(start_paused = true)]
    async fn other_tasks_run_after_each_round() {
        for (round, verifications) in [
            (Duration::ZERO, 1),
            (ONE / 2, 1),
            (ONE, 2),
            (ONE * 9 / 2, 5),
        ] {
            let queue = Rc::new(VerificationQueue::with(MAX_WAITING, MAX_ADMITTED, round));
            let done = Rc::new(Cell::new(0));
            let local = LocalSet::new();
            for _ in 0..100 {
                let (queue, done) = (Rc::clone(&queue), Rc::clone(&done));
                local.spawn_local(async move {
                    let mut permit = queue.permit(SOURCE).await.unwrap();
                    // The clock is paused, so the start is moved back instead.
                    permit.begun -= ONE;
                    done.set(done.get() + 1);
                });
            }
            let mut most = 0;
            let other = async {
                while done.get() < 100 {
                    let before = done.get();
                    yield_now().await;
                    most = most.max(done.get() - before);
                }
            };
            local.run_until(other).await;
            assert_eq!(most, verifications, "{round:?}");
        }
    }

    #[test]
    fn a_verification_over_the_bound_is_refused_until_another_ends() {
        let queue = VerificationQueue::with(2, 1, Duration::ZERO);
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(mut permit)) = pin!(queue.permit(SOURCE)).poll(&mut cx) else {
            panic!("the queue is empty")
        };
        let (mut second, mut third) = (
            Box::pin(queue.permit(SOURCE)),
            Box::pin(queue.permit(SOURCE)),
        );
        assert!(second.as_mut().poll(&mut cx).is_pending());
        assert!(third.as_mut().poll(&mut cx).is_pending());
        let fourth = pin!(queue.permit(SOURCE)).poll(&mut cx);
        assert!(
            matches!(fourth, Poll::Ready(Err(Refusal::Busy(2)))),
            "{fourth:?}"
        );
        // The caller of `second` goes away.
        drop(second);
        permit.begun -= ONE;
        drop(permit);
        assert!(
            third.as_mut().poll(&mut cx).is_pending(),
            "other tasks run first"
        );
        assert!(third.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn a_verification_that_is_dropped_at_its_call_is_no_longer_counted() {
        let queue = VerificationQueue::with(9, 1, Duration::from_secs(1));
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..100 {
            let Poll::Ready(Ok(permit)) = pin!(queue.permit(SOURCE)).poll(&mut cx) else {
                panic!("the queue is empty")
            };
            let mut waiting = Box::pin(queue.permit(SOURCE));
            assert!(waiting.as_mut().poll(&mut cx).is_pending());
            drop(permit);
            drop(waiting);
        }
        assert_eq!(queue.admitted.load(Relaxed), 0);
    }
}
