//! A bundle that cannot be used, for people.

use std::time::SystemTime;

use spiffe::TrustDomain;

/// The kind of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// X.509 authorities.
    X509,
    /// JWT authorities.
    Jwt,
}

/// A bundle that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleFault {
    /// The kind of the bundle.
    pub kind: Kind,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// The reason.
    pub reason: String,
    /// The time of the first response in a row that has it.
    pub since: SystemTime,
}
