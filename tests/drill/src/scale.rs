//! Scales the duration of events.

use std::time::Duration;

/// The duration of events.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// Events are shorter and repeat less, as in `scripts/drill.sh --short`.
    pub(crate) short: bool,
}

impl Scale {
    /// Returns the duration of an event that takes `full` seconds in a full drill.
    pub(crate) fn seconds(self, full: u64) -> Duration {
        let seconds = if self.short { full / 12 } else { full };
        Duration::from_secs(seconds.max(2))
    }

    /// Returns how often an event repeats what it repeats `full` times in a full drill.
    pub(crate) fn times(self, full: u32) -> u32 {
        if self.short { full / 10 } else { full }
    }
}
