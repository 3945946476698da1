//! Checking a token that is not known yet takes as long as a hundred other steps of a request, and
//! never waits: on a runtime of one thread a flood of new tokens would have all of the core.
//!
//! So such checks take turns, and after a short [`ROUND`] of them everything else of the core that is
//! ready has its turn too. Those who wait do so in order, and only so many.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::yield_now,
    time::Instant,
};

use super::Refusal;

/// Who may check a token now, on one core.
#[derive(Debug)]
pub struct Turns {
    places: Semaphore,
    max: usize,
    /// Those who are called for the next round; the others wait in order.
    near: Semaphore,
    round: Duration,
    /// Rounds so far.
    rounds: AtomicU64,
    /// What the checks of this round have taken so far, in ns.
    spent: AtomicU64,
}

/// The right to check one token.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    begun: Instant,
    _place: SemaphorePermit<'a>,
    _near: SemaphorePermit<'a>,
}

/// How many tokens may wait for their check on one core: with a check of 100 µs the last of them is
/// answered after a fifth of a second at the least, later than most callers would want to wait. Whose
/// they are is not looked at: when one caller floods a core, others' new tokens are refused too (503),
/// and only known ones are not.
pub const MAX_WAITING: usize = 2000;

/// How long checks go on, one after the other, before all else that is ready has its turn: a request
/// with a known token waits for no more than this and the check that began last. To look for what is
/// ready after each check would cost as much as the check.
const ROUND: Duration = Duration::from_millis(1);

/// How many of those who wait go on together when a round begins, as far as it lasts. Called one by
/// one, each would have its answer written before the next is checked.
const NEAR: usize = 32;

impl Turns {
    /// Nobody waits; [`MAX_WAITING`] may.
    #[must_use]
    pub fn new() -> Self {
        Self::with(MAX_WAITING, ROUND)
    }

    fn with(max: usize, round: Duration) -> Self {
        Self {
            places: Semaphore::new(max),
            max,
            near: Semaphore::new(NEAR),
            round,
            rounds: AtomicU64::new(0),
            spent: AtomicU64::new(0),
        }
    }

    /// Waits for a turn.
    pub(super) async fn next(&self) -> Result<Turn<'_>, Refusal> {
        let place = self.places.try_acquire();
        let place = place.map_err(|_| Refusal::Busy(self.max))?;
        let near = self.near.acquire().await.expect("never closed");
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
        Ok(Turn {
            turns: self,
            begun: Instant::now(),
            _place: place,
            _near: near,
        })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let nanos = self.begun.elapsed().as_nanos();
        let nanos = nanos.try_into().unwrap_or(u64::MAX / 2);
        self.turns.spent.fetch_add(nanos, Relaxed);
    }
}

impl Default for Turns {
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

    const CHECK: Duration = Duration::from_micros(100);

    #[tokio::test(start_paused = true)]
    async fn others_run_after_each_round_of_checks() {
        for (round, checks_of_a_round) in [
            (Duration::ZERO, 1),
            (CHECK / 2, 1),
            (CHECK, 2),
            (CHECK * 9 / 2, 5),
        ] {
            let turns = Rc::new(Turns::with(MAX_WAITING, round));
            let checks = Rc::new(Cell::new(0));
            let local = LocalSet::new();
            for _ in 0..100 {
                let (turns, checks) = (Rc::clone(&turns), Rc::clone(&checks));
                local.spawn_local(async move {
                    let mut turn = turns.next().await.unwrap();
                    // Began that much earlier: the clock stands still.
                    turn.begun -= CHECK;
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
    fn only_so_many_wait_and_a_place_is_free_again_afterwards() {
        let turns = Turns::with(2, Duration::ZERO);
        turns.spent.store(1, Relaxed);
        let mut cx = Context::from_waker(Waker::noop());
        let (mut first, mut second) = (pin!(turns.next()), Box::pin(turns.next()));
        assert!(
            first.as_mut().poll(&mut cx).is_pending(),
            "it lets others run"
        );
        assert!(second.as_mut().poll(&mut cx).is_pending());
        let third = pin!(turns.next()).poll(&mut cx);
        assert!(
            matches!(third, Poll::Ready(Err(Refusal::Busy(2)))),
            "{third:?}"
        );

        let Poll::Ready(Ok(mut turn)) = first.as_mut().poll(&mut cx) else {
            panic!("it is its turn")
        };
        // Its caller left.
        drop(second);
        let mut third = pin!(turns.next());
        assert!(
            third.as_mut().poll(&mut cx).is_ready(),
            "nothing of the round is spent"
        );
        turn.begun -= CHECK;
        drop(turn);
        let mut fourth = pin!(turns.next());
        assert!(fourth.as_mut().poll(&mut cx).is_pending());
        assert!(fourth.as_mut().poll(&mut cx).is_ready());
    }
}
