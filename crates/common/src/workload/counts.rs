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
    /// Counts a message, of which either everything or only a part can be used, or nothing for a reason. A
    /// withdrawal is neither an update nor rejected.
    pub(super) fn note(&self, stream: Stream, is_usable: Result<bool, &Reason>) {
        match is_usable {
            Ok(true) => self.updates.add(stream, 1),
            Err(reason) if reason.is_withdrawal() => {}
            Ok(false) | Err(_) => self.rejected.add(stream, 1),
        }
    }
}
