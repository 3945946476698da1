//! The end of connections with the identity, or the trust, that they were opened under.
//!
//! A caller verifies the listener's certificate once, and the listener a caller's. A connection that
//! outlived the certificate, or the bundle that verified it, would keep an identity alive that nobody could
//! verify again.

use std::sync::{Arc, Mutex};

use common::lock::lock;

use crate::shutdown::{self, Shutdown, Trigger};

/// The time for which the listener's identity is held, or a trust stays the same. All cores share it.
#[derive(Clone, Debug)]
pub struct Tenure(Arc<Mutex<Shutdown>>);

impl Tenure {
    /// Begins the time of an identity, or of a trust. Dropping the trigger, or using it, drains the
    /// connections that were opened in this time.
    #[must_use]
    pub fn begin() -> (Self, Trigger) {
        let (trigger, end) = shutdown::channel();
        (Self(Arc::new(Mutex::new(end))), trigger)
    }

    /// Begins the time of the next identity or trust. Connections from now on end with the returned trigger.
    #[must_use]
    pub fn renew(&self) -> Trigger {
        let (trigger, end) = shutdown::channel();
        *lock(&self.0) = end;
        trigger
    }

    /// Returns the end of a connection that is opened now.
    pub(crate) fn end(&self) -> Shutdown {
        lock(&self.0).clone()
    }
}
