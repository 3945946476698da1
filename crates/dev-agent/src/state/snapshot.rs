//! One moment of the agent's state, as the RPCs see it.

use std::{collections::HashMap, sync::Arc};

use spiffe::{JwtBundleSet, TrustDomain};

use crate::{authority::Leaf, entry::Entry, jwt::JwtKey, status::Phase};

/// One entry that is not withdrawn, and the X.509-SVID of all callers that match it.
#[derive(Clone)]
pub(crate) struct ActiveEntry {
    pub(crate) entry: Arc<Entry>,
    pub(crate) leaf: Arc<Leaf>,
}

/// Everything that an answer is made from, at one moment.
pub(crate) struct Snapshot {
    pub(crate) phase: Phase,
    pub(crate) trust_domain: TrustDomain,
    /// The entries in their order: the first that matches is the default.
    pub(crate) entries: Vec<ActiveEntry>,
    /// The CA certificates of the own trust domain, concatenated, in DER.
    pub(crate) x509_bundle: Vec<u8>,
    /// The CA certificates of the other trust domains, by trust domain ID.
    pub(crate) federated_x509: HashMap<String, Vec<u8>>,
    /// The JWK Sets of all trust domains, by trust domain ID.
    pub(crate) jwt_bundles: HashMap<String, Vec<u8>>,
    /// The same keys, parsed, to validate tokens with.
    pub(crate) jwt_validators: JwtBundleSet,
    /// The key that signs tokens.
    pub(crate) jwt_key: Arc<JwtKey>,
}
