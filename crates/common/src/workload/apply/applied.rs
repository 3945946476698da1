//! The effect of a message, and its log lines.

use std::sync::Arc;

use spiffe::{SpiffeId, TrustDomain};
use tracing::{info, warn};

use super::Held;
use crate::{
    bearer::JwtBundle,
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
    /// Returns whether the message has an unusable bundle that the message before did not have.
    pub(in crate::workload) fn has_faults(&self) -> bool {
        !self.x509.faults.is_empty() || !self.jwt.faults.is_empty()
    }

    /// Logs the changes in one line, and a change of the identity in another one. Returns the text of the
    /// changes.
    pub(in crate::workload) fn log(&self, held: &Held) -> Option<String> {
        let parts = [
            self.svid.as_deref().map(report::svid),
            report::x509(&self.x509.changes),
            report::jwt(&self.jwt.changes),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        if let (Some(former), Some(now)) = (&self.former_id, held.spiffe_id()) {
            warn!(
                "this process is now {now}, because {former} is no longer issued to it: peers that verify \
                 {former} refuse it, and an audience that was derived from {former} stays"
            );
        }
        if parts.is_empty() {
            return None;
        }
        let changes = parts.join("; ");
        let spiffe_id = held.spiffe_id().map(tracing::field::display);
        info!(spiffe_id, changes, "identity updated");
        Some(changes)
    }

    /// Logs what cannot be used, entry by entry.
    pub(in crate::workload) fn log_faults(&self, held: &Held) {
        let grace = held.grace;
        let is_trusted = |name: &str, trusts: &dyn Fn(&TrustDomain) -> bool| {
            TrustDomain::new(name).is_ok_and(|domain| trusts(&domain))
        };
        let x509 = |name: &str| is_trusted(name, &|domain| held.x509.trusts(domain));
        report::faults("X.509", &self.x509.faults, x509, grace);
        let jwt = |name: &str| is_trusted(name, &|domain| held.jwt.trusts(domain));
        report::faults("JWT", &self.jwt.faults, jwt, grace);
        report::mended("X.509", &self.x509.mended);
        report::mended("JWT", &self.jwt.mended);
        report::unusable_keys(&self.jwt.changes);
    }
}
