//! The counts of a connection to the Workload API.

use super::{apply::Applied, connection::Stream, error::Reason};
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
    /// Counts a message by its effect, or by the reason why it has none. A withdrawal is neither an update nor
    /// rejected.
    pub(super) fn note(&self, stream: Stream, applied: Result<&Applied, &Reason>) {
        match applied {
            Ok(applied) if !applied.has_faults() => self.updates.add(stream, 1),
            Err(reason) if reason.is_withdrawal() => {}
            Ok(_) | Err(_) => self.rejected.add(stream, 1),
        }
    }
}
