//! Locks of mutexes whose state stays valid when a task panics.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, also after a task panicked while it held the lock. Use it where no update leaves the
/// state half-made.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
