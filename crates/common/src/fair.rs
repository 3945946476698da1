//! A queue that serves its sources in turn, and each source's waiters in order, so that a source
//! with many waiters delays another source by one of them at most.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Mutex, MutexGuard},
};

use tokio::sync::oneshot;

use crate::lock::lock;

/// Waiters, bounded in all; over the bound the source with the most waiters loses its last one.
#[derive(Debug)]
pub struct FairQueue {
    max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    count: usize,
    next: u64,
    /// The sources that have waiters; the first one's turn is next.
    order: VecDeque<IpAddr>,
    waiters: HashMap<IpAddr, VecDeque<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    /// Says that it is the waiter's turn; dropped, that it is one too many.
    call: oneshot::Sender<()>,
}

/// A waiter's own side. Dropped before its turn it leaves the queue; dropped after, the next is
/// called.
struct Waiting<'a> {
    queue: &'a FairQueue,
    source: IpAddr,
    number: u64,
    called: Option<oneshot::Receiver<()>>,
    /// Takes back a call that reached a waiter that is gone, where nobody else waits.
    unclaimed: &'a (dyn Fn() + Sync),
}

/// The error of a waiter that is one too many; it has the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany(pub usize);

impl FairQueue {
    /// Lets at most `max` wait.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            state: Mutex::default(),
        }
    }

    /// Waits until [`Self::call_next`] calls this waiter of `source`. Whoever drops this future between
    /// the call and its return has not heard the call: it goes to the next waiter, and to `unclaimed`
    /// if there is none.
    ///
    /// # Errors
    /// When it is one too many.
    pub async fn wait(&self, source: IpAddr, unclaimed: &(dyn Fn() + Sync)) -> Result<(), TooMany> {
        let mut waiting = self.enter(source, unclaimed)?;
        let called = match &mut waiting.called {
            Some(called) => called.await,
            None => Ok(()),
        };
        waiting.called = None;
        called.map_err(|_| TooMany(self.max))
    }

    /// Calls the next waiter; false if nobody waits.
    pub fn call_next(&self) -> bool {
        let mut state = self.lock();
        while let Some(waiter) = state.pop() {
            if waiter.call.send(()).is_ok() {
                return true;
            }
        }
        false
    }

    /// Returns whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.lock().count == 0
    }

    fn enter<'a>(
        &'a self,
        source: IpAddr,
        unclaimed: &'a (dyn Fn() + Sync),
    ) -> Result<Waiting<'a>, TooMany> {
        let mut state = self.lock();
        if state.count >= self.max && !state.make_room(source) {
            return Err(TooMany(self.max));
        }
        let (call, called) = oneshot::channel();
        let number = state.push(source, call);
        Ok(Waiting {
            queue: self,
            source,
            number,
            called: Some(called),
            unclaimed,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn push(&mut self, source: IpAddr, call: oneshot::Sender<()>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.count += 1;
        let own = self.waiters.entry(source).or_default();
        if own.is_empty() {
            self.order.push_back(source);
        }
        own.push_back(Waiter { number, call });
        number
    }

    /// Takes the waiter whose turn it is out of the queue.
    fn pop(&mut self) -> Option<Waiter> {
        let source = self.order.pop_front()?;
        let own = self.waiters.get_mut(&source)?;
        let waiter = own.pop_front();
        match own.is_empty() {
            true => drop(self.waiters.remove(&source)),
            false => self.order.push_back(source),
        }
        self.count -= usize::from(waiter.is_some());
        waiter
    }

    /// Drops the last waiter of the source that has the most, if that has more than `newcomer`.
    fn make_room(&mut self, newcomer: IpAddr) -> bool {
        let own = self.waiters.get(&newcomer).map_or(0, VecDeque::len);
        let largest = self.waiters.iter().max_by_key(|(_, own)| own.len());
        let Some((&source, waiters)) = largest else {
            return false;
        };
        if waiters.len() <= own + 1 {
            return false;
        }
        let last = waiters.back().map(|waiter| waiter.number);
        last.is_some_and(|last| self.remove(source, last))
    }

    fn remove(&mut self, source: IpAddr, number: u64) -> bool {
        let Some(own) = self.waiters.get_mut(&source) else {
            return false;
        };
        let before = own.len();
        own.retain(|waiter| waiter.number != number);
        let is_removed = own.len() < before;
        if own.is_empty() {
            self.waiters.remove(&source);
            self.order.retain(|one| *one != source);
        }
        self.count -= usize::from(is_removed);
        is_removed
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(mut called) = self.called.take() else {
            return;
        };
        let was_called =
            !self.queue.lock().remove(self.source, self.number) && called.try_recv().is_ok();
        if was_called && !self.queue.call_next() {
            (self.unclaimed)();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    type Entry<'a> = Pin<Box<dyn Future<Output = Result<(), TooMany>> + 'a>>;

    fn poll(entry: &mut Entry<'_>) -> Poll<Result<(), TooMany>> {
        entry.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Enters a waiter and expects it to wait.
    fn waiter<'a>(queue: &'a FairQueue, source: &str) -> Entry<'a> {
        let mut entry: Entry<'a> = Box::pin(queue.wait(source.parse().unwrap(), &|| ()));
        assert!(poll(&mut entry).is_pending());
        entry
    }

    #[test]
    fn sources_are_called_in_turn_and_their_waiters_in_order() {
        let queue = FairQueue::new(9);
        let mut all: Vec<_> = ["::1", "::1", "::1", "::2", "::3", "::3"]
            .iter()
            .map(|source| waiter(&queue, source))
            .collect();
        for expected in [0, 3, 4, 1, 5, 2] {
            assert!(queue.call_next());
            let ready: Vec<_> = (0..6).filter(|&i| is_ready(&mut all, i)).collect();
            assert_eq!(ready, [expected]);
        }
        assert!(!queue.call_next() && queue.is_empty());
    }

    /// Returns whether the waiter is called now. A called waiter is replaced by one that waits.
    fn is_ready(all: &mut [Entry<'_>], index: usize) -> bool {
        let ready = poll(&mut all[index]).is_ready();
        if ready {
            all[index] = Box::pin(std::future::pending());
        }
        ready
    }

    #[test]
    fn over_the_bound_the_largest_source_loses_its_last_waiter() {
        let queue = FairQueue::new(3);
        let mut flood: Vec<_> = (0..3).map(|_| waiter(&queue, "::1")).collect();
        let mut more: Entry<'_> = Box::pin(queue.wait("::1".parse().unwrap(), &|| ()));
        assert_eq!(poll(&mut more), Poll::Ready(Err(TooMany(3))));
        let mut other = waiter(&queue, "::2");
        assert_eq!(poll(&mut flood[2]), Poll::Ready(Err(TooMany(3))));
        assert!(queue.call_next() && poll(&mut flood[0]).is_ready());
        assert!(queue.call_next() && poll(&mut other).is_ready());
    }

    #[test]
    fn a_waiter_that_leaves_passes_its_turn_on() {
        let queue = FairQueue::new(9);
        let (first, second) = (waiter(&queue, "::1"), waiter(&queue, "::1"));
        let mut third = waiter(&queue, "::2");
        drop(second);
        assert!(queue.call_next());
        drop(first);
        assert!(poll(&mut third).is_ready());
        assert!(queue.is_empty());
    }

    #[test]
    fn a_call_that_nobody_hears_is_given_back() {
        let queue = FairQueue::new(9);
        let given_back = std::sync::atomic::AtomicUsize::new(0);
        let unclaimed = || {
            given_back.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        };
        let mut only: Entry<'_> = Box::pin(queue.wait("::1".parse().unwrap(), &unclaimed));
        assert!(poll(&mut only).is_pending());
        assert!(queue.call_next());
        drop(only);
        assert_eq!(given_back.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
}
