//! The JWT bundles that verify tokens.

use std::{collections::BTreeMap, sync::Arc};

use spiffe::{BundleSource, TrustDomain};
use tokio::sync::watch;

use super::x509::{Bundles, Unavailable};
use crate::jwt_bundle::JwtBundle;

/// The current JWT bundles. The Workload API keeps them current for as long as a clone exists.
///
/// A bundle is the same [`Arc`] until the Workload API sends another one for its trust domain.
#[derive(Clone, Debug)]
pub struct JwtSource {
    pub(super) state: watch::Receiver<Arc<Bundles<JwtBundle>>>,
    pub(super) _keeper: Arc<super::running::Running>,
}

impl JwtSource {
    /// Returns the current bundles by trust domain.
    ///
    /// # Errors
    /// Fails when they may not be used at present.
    pub fn bundles(&self) -> Result<BTreeMap<TrustDomain, Arc<JwtBundle>>, Unavailable> {
        self.state.borrow().all().cloned()
    }

    /// Waits for an update that this clone has not waited for yet. Returns `false` if there will be
    /// none.
    pub async fn changed(&mut self) -> bool {
        self.state.changed().await.is_ok()
    }
}

impl BundleSource for JwtSource {
    type Item = JwtBundle;
    type Error = Unavailable;

    fn bundle_for_trust_domain(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Option<Arc<JwtBundle>>, Unavailable> {
        self.state.borrow().get(trust_domain)
    }
}
