//! Checking a token that is not known yet takes as long as a hundred other steps of a request, and
//! never waits: on a runtime of one thread a flood of new tokens would have all of the core.
//!
//! So such checks take turns, and between any two of them everything else of the core that is ready
//! has its turn too. Those who wait do so in order, and only so many.

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::yield_now,
};

use super::Refusal;

/// Who may check a token now, on one core.
#[derive(Debug)]
pub struct Turns {
    places: Semaphore,
    max: usize,
    turn: Semaphore,
}

/// The right to check one token.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    _place: SemaphorePermit<'a>,
    _turn: SemaphorePermit<'a>,
}

/// How many tokens may wait for their check on one core: with a check of 100 µs the last of them is
/// answered after a fifth of a second at the least, later than most callers would want to wait. Whose
/// they are is not looked at: when one caller floods a core, others' new tokens are refused too (503),
/// and only known ones are not.
pub const MAX_WAITING: usize = 2000;

impl Turns {
    /// Nobody waits; [`MAX_WAITING`] may.
    #[must_use]
    pub fn new() -> Self {
        Self::with_places(MAX_WAITING)
    }

    fn with_places(max: usize) -> Self {
        Self {
            places: Semaphore::new(max),
            max,
            turn: Semaphore::new(1),
        }
    }

    /// Waits for a turn.
    pub(super) async fn next(&self) -> Result<Turn<'_>, Refusal> {
        let place = self.places.try_acquire();
        let place = place.map_err(|_| Refusal::Busy(self.max))?;
        let turn = self.turn.acquire().await.expect("never closed");
        // It goes on when all that was ready has run, and the runtime has looked for more.
        yield_now().await;
        Ok(Turn {
            _place: place,
            _turn: turn,
        })
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

    #[tokio::test]
    async fn others_run_between_any_two_checks() {
        let (turns, checks, others) = (Rc::new(Turns::new()), Rc::new(Cell::new(0)), Cell::new(0));
        let local = LocalSet::new();
        for _ in 0..100 {
            let (turns, checks) = (Rc::clone(&turns), Rc::clone(&checks));
            local.spawn_local(async move {
                let _turn = turns.next().await.unwrap();
                checks.set(checks.get() + 1);
            });
        }
        let other = async {
            while checks.get() < 100 {
                let before = checks.get();
                yield_now().await;
                assert!(
                    checks.get() - before <= 1,
                    "{} at once",
                    checks.get() - before
                );
                others.set(others.get() + 1);
            }
        };
        local.run_until(other).await;
        assert!(others.get() >= 100);
    }

    #[test]
    fn only_so_many_wait_and_a_place_is_free_again_afterwards() {
        let turns = Turns::with_places(2);
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

        let Poll::Ready(Ok(turn)) = first.as_mut().poll(&mut cx) else {
            panic!("it is its turn")
        };
        assert!(second.as_mut().poll(&mut cx).is_pending(), "one at a time");
        // Its caller left.
        drop(second);
        let mut third = pin!(turns.next());
        assert!(third.as_mut().poll(&mut cx).is_pending());
        drop(turn);
        assert!(
            third.as_mut().poll(&mut cx).is_pending(),
            "it lets others run"
        );
        assert!(third.as_mut().poll(&mut cx).is_ready());
    }
}
