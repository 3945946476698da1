//! The rate limit per caller. Signing takes time, and a caller that loops must not slow the others.

use std::{
    collections::{HashMap, HashSet},
    sync::Mutex,
    time::Duration,
};

use tokio::time::Instant;

use crate::{lock::lock, selector::Selector};

/// The most calls in a [`PERIOD`]: more than a workload needs, but not enough to load a core.
const CALLS: u32 = 1000;
const PERIOD: Duration = Duration::from_secs(1);

/// The calls of the current period, by the callers' selectors. A second connection, or a second
/// process with the same selectors, is the same caller.
pub(crate) struct Rate(Mutex<Window>);

struct Window {
    began: Instant,
    calls: HashMap<Vec<Selector>, u32>,
}

impl Rate {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Window::now()))
    }

    /// Counts a call. Returns false if the caller has made too many in this period.
    pub(crate) fn admit(&self, caller: &HashSet<Selector>) -> bool {
        let mut window = lock(&self.0);
        if window.began.elapsed() >= PERIOD {
            *window = Window::now();
        }
        let mut key: Vec<_> = caller.iter().cloned().collect();
        key.sort_unstable();
        let calls = window.calls.entry(key).or_default();
        *calls = calls.saturating_add(1);
        *calls <= CALLS
    }
}

impl Window {
    fn now() -> Self {
        Self {
            began: Instant::now(),
            calls: HashMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_caller_over_its_rate_limit_is_refused_w146() {
        let rate = Rate::new();
        let caller = |uid| HashSet::from([Selector::Uid(uid), Selector::Gid(5)]);
        let admitted = || (0..CALLS + 10).filter(|_| rate.admit(&caller(1))).count();
        assert_eq!(admitted(), CALLS as usize);
        assert!(!rate.admit(&caller(1)));
        assert!(rate.admit(&caller(2)), "W149: the others are not affected");
        tokio::time::advance(PERIOD).await;
        assert_eq!(admitted(), CALLS as usize);
        let window = rate.0.lock().unwrap();
        assert_eq!(window.calls.len(), 1, "nothing is kept of the last period");
    }
}
