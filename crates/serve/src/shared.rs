//! The live counts that the cores of a process share.

use crate::{
    accept::{Admission, Balance},
    connection::WideWindows,
    in_flight::InFlightLimit,
    limits::Limits,
};

/// A listener's limits, and everything that is counted under them. Clones share the counts: each core
/// has one.
#[derive(Clone, Debug)]
pub struct Shared {
    pub(crate) limits: Limits,
    pub(crate) admission: Admission,
    pub(crate) in_flight: InFlightLimit,
    pub(crate) wide_windows: WideWindows,
    pub(crate) balance: Balance,
}

impl Shared {
    /// Begins to count under `limits`.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            admission: Admission::new(&limits),
            in_flight: InFlightLimit::new(limits.max_requests),
            wide_windows: WideWindows::default(),
            balance: Balance::default(),
            limits,
        }
    }
}
