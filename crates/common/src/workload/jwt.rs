//! The JWT bundles that verify tokens.

use std::{collections::BTreeMap, sync::Arc};

use spiffe::{BundleSource, TrustDomain};
use tokio::sync::watch;

use super::x509::{Unavailable, same};
use crate::bearer::JwtBundle;

/// The JWT bundles at one moment.
#[derive(Debug, Default)]
pub(super) struct JwtState {
    pub(super) bundles: BTreeMap<TrustDomain, Arc<JwtBundle>>,
    pub(super) unavailable: Option<Unavailable>,
}

/// The current JWT bundles. The Workload API keeps them current for as long as a clone exists.
///
/// A bundle is the same [`Arc`] until the Workload API sends another one for its trust domain.
#[derive(Clone, Debug)]
pub struct JwtSource {
    pub(super) state: watch::Receiver<Arc<JwtState>>,
    pub(super) _keeper: Arc<super::Running>,
}

impl JwtState {
    /// Returns whether both have the same contents.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        self.unavailable == other.unavailable && same(&self.bundles, &other.bundles)
    }
}

impl JwtSource {
    /// Returns the current bundles by trust domain.
    ///
    /// # Errors
    /// Fails when they may not be used at present.
    pub fn bundles(&self) -> Result<BTreeMap<TrustDomain, Arc<JwtBundle>>, Unavailable> {
        let state = self.state.borrow();
        match &state.unavailable {
            Some(reason) => Err(reason.clone()),
            None => Ok(state.bundles.clone()),
        }
    }

    /// Waits for an update that came after the last one that was waited for. Returns `false` if there
    /// will be none.
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
        let state = self.state.borrow();
        match &state.unavailable {
            Some(reason) => Err(reason.clone()),
            None => Ok(state.bundles.get(trust_domain).cloned()),
        }
    }
}
