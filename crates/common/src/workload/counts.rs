//! The counts of a connection to the Workload API.

use super::{connection::Stream, error::Reason};
use crate::count::Counters;

/// The counts of what a [`Monitor`](super::Monitor) observes.
#[derive(Debug, Default)]
pub struct Counts {
    /// The messages that were applied.
    pub updates: Counters<Stream>,
    /// The messages that could not be used, as a whole, in their X.509-SVID or in one of their bundles.
    pub rejected: Counters<Stream>,
}

impl Counts {
    /// Counts a message. `is_whole` tells whether all of it can be used, or why nothing can. A withdrawal is
    /// neither an update nor rejected.
    pub(super) fn note(&self, stream: Stream, is_whole: Result<bool, &Reason>) {
        match is_whole {
            Ok(true) => self.updates.add(stream, 1),
            Err(reason) if reason.is_withdrawal() => {}
            Ok(false) | Err(_) => self.rejected.add(stream, 1),
        }
    }
}
