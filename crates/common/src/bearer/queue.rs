//! Checking a token that is not known yet takes as long as a hundred other steps of a request, and
//! never waits: on a runtime of one thread a flood of new tokens would have all of the core.
//!
//! So such checks take turns, and after a short [`ROUND`] of them everything else of the core that is
//! ready has its turn too. Waiting checks are served source by source, and at most [`MAX_WAITING`] may
//! wait: over that, the source with the most loses its last one.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use tokio::{task::yield_now, time::Instant};

use super::Refusal;
use crate::fair::{FairQueue, TooMany};

/// Who may check a token now, on one core.
#[derive(Debug)]
pub struct VerificationQueue {
    /// Checks that wait for a later round.
    waiting: FairQueue,
    /// Checks that are called for this round or the next.
    near: AtomicUsize,
    max_near: usize,
    round: Duration,
    /// Rounds so far.
    rounds: AtomicU64,
    /// What the checks of this round have taken so far, in ns.
    spent: AtomicU64,
}

/// The right to check one token.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    queue: &'a VerificationQueue,
    begun: Instant,
    _near: Near<'a>,
}

/// A check that is called for this round or the next. When it is over, the next one is called.
#[derive(Debug)]
struct Near<'a>(&'a VerificationQueue);

/// How many tokens may wait for their check on one core: with a check of 100 µs the last of them is
/// answered after a fifth of a second at the least, later than most callers would want to wait.
pub const MAX_WAITING: usize = 2000;

/// How long checks go on, one after the other, before all else that is ready has its turn: a request
/// with a known token waits for no more than this and the check that began last. To look for what is
/// ready after each check would cost as much as the check.
const ROUND: Duration = Duration::from_millis(1);

/// How many of those who wait go on together when a round begins, as far as it lasts. Called one by
/// one, each would have its answer written before the next is checked.
const NEAR: usize = 32;

impl VerificationQueue {
    /// Nobody waits; [`MAX_WAITING`] may.
    #[must_use]
    pub fn new() -> Self {
        Self::with(MAX_WAITING, NEAR, ROUND)
    }

    fn with(max: usize, max_near: usize, round: Duration) -> Self {
        Self {
            waiting: FairQueue::new(max),
            near: AtomicUsize::new(0),
            max_near,
            round,
            rounds: AtomicU64::new(0),
            spent: AtomicU64::new(0),
        }
    }

    /// Waits for the permit to verify one token, for a caller at `source`.
    pub(super) async fn permit(&self, source: IpAddr) -> Result<Permit<'_>, Refusal> {
        let near = self.called(source).await?;
        while Duration::from_nanos(self.spent.load(Relaxed)) > self.round {
            let round = self.rounds.load(Relaxed);
            // It goes on when all that was ready has run, and the runtime has looked for more.
            yield_now().await;
            // The first of those who waited begins the next round.
            if self.rounds.load(Relaxed) == round {
                self.rounds.store(round + 1, Relaxed);
                self.spent.store(0, Relaxed);
            }
        }
        Ok(Permit {
            queue: self,
            begun: Instant::now(),
            _near: near,
        })
    }

    async fn called(&self, source: IpAddr) -> Result<Near<'_>, Refusal> {
        if self.near.load(Relaxed) < self.max_near {
            self.near.fetch_add(1, Relaxed);
            return Ok(Near(self));
        }
        let give_back = || drop(Near(self));
        let waited = self.waiting.wait(source, &give_back).await;
        waited.map_err(|TooMany(max)| Refusal::Busy(max))?;
        // Its place was passed on to it.
        Ok(Near(self))
    }
}

impl Drop for Near<'_> {
    fn drop(&mut self) {
        if !self.0.waiting.call_next() {
            self.0.near.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let nanos = self.begun.elapsed().as_nanos();
        let nanos = nanos.try_into().unwrap_or(u64::MAX / 2);
        self.queue.spent.fetch_add(nanos, Relaxed);
    }
}

impl Default for VerificationQueue {
    fn default() -> Self {
        Self::new()
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

    const CHECK: Duration = Duration::from_micros(100);

    #[tokio::test(start_paused = true)]
    async fn others_run_after_each_round_of_checks() {
        for (round, checks_of_a_round) in [
            (Duration::ZERO, 1),
            (CHECK / 2, 1),
            (CHECK, 2),
            (CHECK * 9 / 2, 5),
        ] {
            let queue = Rc::new(VerificationQueue::with(MAX_WAITING, NEAR, round));
            let checks = Rc::new(Cell::new(0));
            let local = LocalSet::new();
            for _ in 0..100 {
                let (queue, checks) = (Rc::clone(&queue), Rc::clone(&checks));
                local.spawn_local(async move {
                    let mut permit = queue.permit(SOURCE).await.unwrap();
                    // Began that much earlier: the clock stands still.
                    permit.begun -= CHECK;
                    checks.set(checks.get() + 1);
                });
            }
            let mut most = 0;
            let other = async {
                while checks.get() < 100 {
                    let before = checks.get();
                    yield_now().await;
                    most = most.max(checks.get() - before);
                }
            };
            local.run_until(other).await;
            assert_eq!(most, checks_of_a_round, "{round:?}");
        }
    }

    #[test]
    fn at_most_so_many_wait_and_a_place_is_free_again_afterwards() {
        let queue = VerificationQueue::with(2, 1, Duration::ZERO);
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(mut permit)) = pin!(queue.permit(SOURCE)).poll(&mut cx) else {
            panic!("nobody else is there")
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
        // Its caller left.
        drop(second);
        permit.begun -= CHECK;
        drop(permit);
        assert!(
            third.as_mut().poll(&mut cx).is_pending(),
            "it lets others run"
        );
        assert!(third.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn callers_that_leave_when_they_are_called_leave_their_places() {
        let queue = VerificationQueue::with(9, 1, Duration::from_secs(1));
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..100 {
            let Poll::Ready(Ok(permit)) = pin!(queue.permit(SOURCE)).poll(&mut cx) else {
                panic!("nobody else is there")
            };
            let mut waiting = Box::pin(queue.permit(SOURCE));
            assert!(waiting.as_mut().poll(&mut cx).is_pending());
            drop(permit);
            drop(waiting);
        }
        assert_eq!(queue.near.load(Relaxed), 0);
    }
}
