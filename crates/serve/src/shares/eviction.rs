//! The end of a permit before its holder is done.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;

/// Tells a holder that it is evicted. One task at a time waits for it.
#[derive(Debug, Default)]
pub struct Eviction {
    evicted: AtomicBool,
    waker: AtomicWaker,
}

impl Eviction {
    pub(super) fn evict(&self) {
        self.evicted.store(true, SeqCst);
        self.waker.wake();
    }

    /// Returns whether the holder is evicted.
    pub fn is_evicted(&self) -> bool {
        self.evicted.load(SeqCst)
    }

    /// Polls whether the holder is evicted.
    pub fn poll_evicted(&self, cx: &Context<'_>) -> Poll<()> {
        if !self.is_evicted() {
            self.waker.register(cx.waker());
        }
        if self.is_evicted() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Waits until the holder is evicted.
    pub async fn evicted(&self) {
        poll_fn(|cx| self.poll_evicted(cx)).await;
    }
}
