//! The counts of a connection to the Workload API.

use super::{connection::Stream, error::Reason};
use crate::count::Counters;

/// The counts of what a [`Monitor`](super::Monitor) observes.
#[derive(Debug, Default)]
pub struct Counts {
    /// The messages that were applied.
    pub updates: Counters<Stream>,
    /// The messages that could not be used, as a whole or in their X.509-SVID.
    pub rejected: Counters<Stream>,
}

impl Counts {
    /// Counts a message, and the reason why it cannot be used. A withdrawal is neither an update nor rejected.
    pub(super) fn note(&self, stream: Stream, fault: Option<&Reason>) {
        match fault {
            None => self.updates.add(stream, 1),
            Some(reason) if reason.is_withdrawal() => {}
            Some(_) => self.rejected.add(stream, 1),
        }
    }
}
