//! The agent's relationships with other trust domains.

use std::net::SocketAddr;

use spiffe::TrustDomain;

use super::DevAgent;
use crate::{
    endpoint::{DEFAULT_HINT, EndpointMode},
    error::Error,
    federation::{FederatedBundle, Partner, replace},
};

impl DevAgent {
    /// Replaces the trust bundles of other trust domains.
    ///
    /// # Errors
    /// Fails when two bundles share a trust domain or a key, or one is of the own trust domain. Then
    /// nothing changes.
    pub fn set_federated(&self, bundles: Vec<FederatedBundle>) -> Result<(), Error> {
        self.state.federate(|current| {
            *current = bundles;
            Ok(())
        })
    }

    /// Returns the trust bundle of another trust domain that workloads have.
    #[must_use]
    pub fn federated(&self, trust_domain: &TrustDomain) -> Option<FederatedBundle> {
        self.state.federated(trust_domain)
    }

    /// Adds the trust bundle of another trust domain, or replaces it.
    ///
    /// # Errors
    /// Fails like [`Self::set_federated`].
    pub fn federate(&self, bundle: FederatedBundle) -> Result<(), Error> {
        self.state.federate(|current| {
            replace(current, bundle);
            Ok(())
        })
    }

    /// Fetches the trust bundle of another trust domain from its endpoint from now on.
    ///
    /// # Errors
    /// Fails like [`Self::set_federated`], and when the endpoint's identity can't be verified. Then
    /// nothing changes.
    pub fn federate_with(&self, partner: Partner) -> Result<(), Error> {
        self.followers.follow(partner)
    }

    /// Fetches the trust bundle of another trust domain now. Returns its sequence number.
    ///
    /// # Errors
    /// Fails with the reason why the endpoint gave no bundle, or when the agent does not fetch that
    /// bundle.
    pub async fn refresh(&self, trust_domain: &TrustDomain) -> Result<Option<u64>, Error> {
        self.followers.refresh(trust_domain).await
    }

    /// Returns the address of the bundle endpoint, with the port that the kernel chose.
    #[must_use]
    pub fn bundle_endpoint(&self) -> Option<SocketAddr> {
        self.endpoints.bundle_address()
    }

    /// Returns the address of the OIDC endpoint, with the port that the kernel chose.
    #[must_use]
    pub fn oidc_endpoint(&self) -> Option<SocketAddr> {
        self.endpoints.oidc_address()
    }

    /// Changes the behaviour of the bundle endpoint, from the next connection on.
    ///
    /// # Errors
    /// Fails if there is no bundle endpoint, or if it can't listen again.
    pub async fn set_endpoint_mode(&self, mode: EndpointMode) -> Result<(), Error> {
        self.endpoints.set_mode(mode).await
    }

    /// Removes the trust bundle of another trust domain, and stops fetching it. Returns whether
    /// there was one.
    pub fn unfederate(&self, trust_domain: &TrustDomain) -> bool {
        let followed = self.followers.end(trust_domain);
        let removed = self.state.federate(|current| {
            let before = current.len();
            current.retain(|bundle| bundle.trust_domain() != trust_domain);
            Ok(current.len() != before)
        });
        // A subset of accepted bundles is accepted too.
        followed || removed.unwrap_or_default()
    }

    /// Returns the own trust bundle, for an agent of another trust domain.
    ///
    /// # Panics
    /// Never panics, because the agent reads the documents that it writes.
    #[must_use]
    pub fn federation(&self) -> FederatedBundle {
        let document = self.state.bundle_document(DEFAULT_HINT);
        FederatedBundle::parse(self.trust_domain().clone(), &document)
            .expect("our own bundle document is well-formed")
    }
}
