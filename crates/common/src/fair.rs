//! A queue that serves its sources in rotation and the waiters of each source in order.
//!
//! A source with many waiters therefore delays a waiter of another source by one of its own at most.
//!
//! [`tokio::sync::Semaphore`] offers a queue in the order of arrival, and `tower`'s concurrency limit is
//! built on it. It does not serve here because one source could fill it. Behind 2,000 waiting
//! verifications of 100 µs each, a caller from another source would wait for 0.2 s. Over the bound it
//! would be refused.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Mutex, MutexGuard},
};

use tokio::sync::oneshot;

use crate::lock::lock;

/// A bounded queue of waiters. Over the bound, the source with the most waiters loses its last one.
#[derive(Debug)]
pub struct FairQueue {
    max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    count: usize,
    next: u64,
    /// The sources that have waiters; the first one is served next.
    order: VecDeque<IpAddr>,
    waiters: HashMap<IpAddr, VecDeque<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    /// Calls the waiter. It is dropped without a call if the waiter is one too many.
    call: oneshot::Sender<()>,
}

/// The waiter's side of its entry. If it is dropped before the call, its entry leaves the queue. If it
/// is dropped after a call that it has not received, the next waiter is called.
struct Waiting<'a> {
    queue: &'a FairQueue,
    source: IpAddr,
    number: u64,
    called: Option<oneshot::Receiver<()>>,
    /// Takes back a call that its waiter did not receive, if the queue is empty.
    unclaimed: &'a (dyn Fn() + Sync),
}

/// The error of a waiter that is one too many. It holds the bound of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany(pub usize);

impl FairQueue {
    /// Returns an empty queue for at most `max` waiters.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            state: Mutex::default(),
        }
    }

    /// Waits until [`Self::call_next`] calls this waiter of `source`.
    ///
    /// If the future is dropped after the call and before it returns, the call goes to the next waiter.
    /// If there is none, `unclaimed` is called.
    ///
    /// # Errors
    /// Fails when the queue is full and no other source has more waiters.
    pub async fn wait(&self, source: IpAddr, unclaimed: &(dyn Fn() + Sync)) -> Result<(), TooMany> {
        let mut waiting = self.enter(source, unclaimed)?;
        let called = match &mut waiting.called {
            Some(called) => called.await,
            None => Ok(()),
        };
        waiting.called = None;
        called.map_err(|_| TooMany(self.max))
    }

    /// Calls the next waiter, and returns whether there was one.
    pub fn call_next(&self) -> bool {
        let mut state = self.lock();
        while let Some(waiter) = state.pop() {
            if waiter.call.send(()).is_ok() {
                return true;
            }
        }
        false
    }

    /// Returns the number of waiters.
    pub fn len(&self) -> usize {
        self.lock().count
    }

    /// Returns whether the queue has no waiters.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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

    /// Removes the next waiter from the queue.
    fn pop(&mut self) -> Option<Waiter> {
        let source = self.order.pop_front()?;
        let own = self.waiters.get_mut(&source)?;
        let waiter = own.pop_front();
        if own.is_empty() {
            drop(self.waiters.remove(&source))
        } else {
            self.order.push_back(source)
        }
        self.count -= usize::from(waiter.is_some());
        waiter
    }

    /// Drops the last waiter of the source with the most waiters, if it has more than `newcomer` would
    /// have. Returns whether it did.
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

    /// Adds a waiter and checks that it waits.
    fn waiter<'a>(queue: &'a FairQueue, source: &str) -> Entry<'a> {
        let mut entry: Entry<'a> = Box::pin(queue.wait(source.parse().unwrap(), &|| ()));
        assert!(poll(&mut entry).is_pending());
        entry
    }

    #[test]
    fn sources_are_called_in_rotation_and_their_waiters_in_order() {
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

    /// Returns whether the waiter was called. A called waiter is replaced by one that waits.
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
    fn a_call_to_a_waiter_that_is_gone_goes_to_the_next() {
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
    fn a_call_that_no_waiter_receives_is_unclaimed() {
        let queue = FairQueue::new(9);
        let count = std::sync::atomic::AtomicUsize::new(0);
        let unclaimed = || {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        };
        let mut only: Entry<'_> = Box::pin(queue.wait("::1".parse().unwrap(), &unclaimed));
        assert!(poll(&mut only).is_pending());
        assert!(queue.call_next());
        drop(only);
        assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
}
