//! The order of connections, changes of trust and failures.

/// The number of an epoch. Each change of trust and each failed request begins a new one, which
/// distinguishes connections that are opened later from those that were open before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Generation(u64);

impl Generation {
    /// Begins the next generation and returns it.
    pub(super) fn advance(&mut self) -> Self {
        self.0 += 1;
        *self
    }
}
