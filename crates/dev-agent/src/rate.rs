//! How often a caller may call: signing costs, and one that loops must not
//! slow the others.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::lock::lock;
use crate::selector::Selector;

/// Far more than a workload needs, and little enough to leave the others a core.
const CALLS: u32 = 1000;
const PERIOD: Duration = Duration::from_secs(1);

/// The calls of the current period, by what the callers were attested to be: a
/// second connection, or a second process of the same kind, is the same caller.
pub(crate) struct Rate(Mutex<Window>);

struct Window {
    began: Instant,
    calls: HashMap<Vec<Selector>, u32>,
}

impl Rate {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Window::now()))
    }

    /// Counts a call; false if the caller has had its share.
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
    async fn w146_a_caller_has_its_share_and_no_more() {
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
