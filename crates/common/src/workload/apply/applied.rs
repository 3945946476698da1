//! The effect of a message, and its log lines.

use std::{sync::Arc, time::Duration};

use spiffe::SpiffeId;
use tracing::{info, warn};

use crate::{
    jwt_bundle::JwtBundle,
    workload::{
        domains, report,
        x509::{Trust, X509Svid},
    },
};

/// The effect of a message that can be used.
#[derive(Default)]
pub(in crate::workload) struct Applied {
    /// The X.509-SVID, if it is another one than before.
    pub(super) svid: Option<Arc<X509Svid>>,
    /// The SPIFFE ID that the process had until now, if it has another one.
    pub(super) former_id: Option<SpiffeId>,
    pub(super) x509: domains::Applied<Trust>,
    pub(super) jwt: domains::Applied<JwtBundle>,
}

impl Applied {
    /// Returns whether every bundle of the message can be used.
    pub(in crate::workload) fn is_whole(&self) -> bool {
        !self.x509.has_fault && !self.jwt.has_fault
    }

    /// Logs the changes in one line, and a change of the identity in another one. Returns the text of the
    /// changes. `spiffe_id` is the ID that the process has now.
    pub(in crate::workload) fn log(&self, spiffe_id: Option<&SpiffeId>) -> Option<String> {
        let parts = [
            self.svid.as_deref().map(report::svid),
            report::x509(&self.x509.changes),
            report::jwt(&self.jwt.changes),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        if let (Some(former), Some(now)) = (&self.former_id, spiffe_id) {
            warn!(
                "this process is now {now}, because {former} is no longer issued to it: peers that verify \
                 {former} refuse it, and an audience that was derived from {former} stays"
            );
        }
        if parts.is_empty() {
            return None;
        }
        let changes = parts.join("; ");
        let spiffe_id = spiffe_id.map(tracing::field::display);
        info!(spiffe_id, changes, "identity updated");
        Some(changes)
    }

    /// Logs what cannot be used, entry by entry. A bundle whose successor has a fault stays in use for `grace`.
    pub(in crate::workload) fn log_faults(&self, grace: Duration) {
        report::faults("X.509", &self.x509.faults, grace);
        report::faults("JWT", &self.jwt.faults, grace);
        report::mended("X.509", &self.x509.mended);
        report::mended("JWT", &self.jwt.mended);
        report::unusable_keys(&self.jwt.changes);
    }
}
