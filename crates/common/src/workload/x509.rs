//! The X.509-SVID of this process, and the X.509 bundles that verify its peers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use humantime::format_rfc3339_seconds;
use rustls::{RootCertStore, pki_types::CertificateDer, sign::CertifiedKey};
use spiffe::{
    BundleSource, SpiffeId, TrustDomain, X509Bundle, X509BundleSet,
    cert::{Certificate, PrivateKey},
    svid::x509::{X509Svid as ParsedSvid, X509SvidError},
};
use tokio::sync::watch;
use workload_api::pb;
use x509_parser::parse_x509_certificate;

use crate::certificate::{self, certified_key};

/// An X.509-SVID that can be presented. Its key belongs to its certificate, and it was valid when it
/// came.
#[derive(Clone)]
pub struct X509Svid {
    parsed: ParsedSvid,
    key: Arc<CertifiedKey>,
    serial: String,
    expiry: SystemTime,
}

/// The reason why an X.509-SVID cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SvidFault {
    /// The certificates or the key are not those of an X.509-SVID (X509-SVID §4).
    #[error("{0}")]
    Malformed(#[from] X509SvidError),
    /// The certificate is for another identity than the message says.
    #[error("its certificate is for {0}, and not for {1}")]
    OtherId(SpiffeId, String),
    /// The private key belongs to another certificate, or is of an unknown type.
    #[error("its private key does not belong to its certificate: {0}")]
    Key(#[from] rustls::Error),
    /// The certificate has expired. An agent that has lost its server issues such SVIDs.
    #[error(
        "it expired at {}; is the agent cut off from its server, or a clock wrong?",
        format_rfc3339_seconds(*.0)
    )]
    Expired(SystemTime),
    /// The bundle of its own trust domain, which comes with it, cannot be used.
    #[error("the bundle that comes with it can't be used: {0}")]
    Bundle(String),
}

/// The reason why bytes are not an X.509 bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum X509BundleFault {
    /// The bundle has no certificate.
    #[error("it is empty")]
    Empty,
    /// The bytes are not DER certificates one after another.
    #[error("{0}")]
    Malformed(String),
    /// No certificate of the bundle can be a trust anchor.
    #[error("none of its certificates can be a trust anchor")]
    NoAnchor,
}

/// The trust bundle of one trust domain, and its form for rustls.
#[derive(Debug)]
pub(crate) struct Trust {
    pub(crate) bundle: Arc<X509Bundle>,
    pub(crate) roots: Arc<RootCertStore>,
}

/// The reason why nothing of the Workload API may be used at present.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// The Workload API has withdrawn the identity (Workload API §5.2.1).
    #[error("the Workload API has withdrawn the identity: {0}")]
    Withdrawn(Arc<str>),
    /// The X.509-SVID has expired, and nothing that came with it is trusted for longer.
    #[error("the X.509-SVID has expired, and no new one has come")]
    Expired,
    /// The Workload API has sent no usable bundles for longer than the old ones are trusted.
    #[error("the Workload API has sent no usable bundles for too long")]
    Stale,
    /// The Workload API sends no usable bundle of this trust domain, and the last good one, if there was
    /// one, is not trusted any more.
    #[error("the Workload API sends no usable bundle of trust domain {0}")]
    NoUsableBundle(TrustDomain),
    /// This process uses bundles only.
    #[error("this process has fetched no X.509-SVID")]
    NotFetched,
}

/// The bundles of a kind at one moment.
#[derive(Debug)]
pub(super) struct Bundles<T> {
    pub(super) usable: BTreeMap<TrustDomain, Arc<T>>,
    /// The trust domains that have a bundle, but none that can be used.
    pub(super) unusable: BTreeSet<TrustDomain>,
    /// The reason why none of them may be used.
    pub(super) unavailable: Option<Unavailable>,
}

/// The X.509-SVID and the X.509 bundles at one moment.
#[derive(Debug, Default)]
pub(super) struct X509State {
    pub(super) svid: Option<Arc<X509Svid>>,
    pub(super) bundles: Bundles<Trust>,
    /// The number of states before this one.
    pub(super) revision: u64,
}

/// The current X.509-SVID and X.509 bundles of this process. The Workload API keeps them current for as
/// long as a clone exists.
#[derive(Clone, Debug)]
pub struct X509Source {
    pub(super) state: watch::Receiver<Arc<X509State>>,
    pub(super) _keeper: Arc<super::running::Running>,
}

impl X509Svid {
    /// Reads an X.509-SVID that is to be used at `now`.
    ///
    /// # Errors
    /// Fails when peers would refuse it.
    pub(super) fn read(entry: &pb::X509svid, now: SystemTime) -> Result<Self, SvidFault> {
        let parsed = ParsedSvid::parse_from_der(&entry.x509_svid, &entry.x509_svid_key)?;
        let id = parsed.spiffe_id();
        if id.to_string() != entry.spiffe_id {
            let said = crate::sanitize::Sanitized(&entry.spiffe_id).to_string();
            return Err(SvidFault::OtherId(id.clone(), said));
        }
        // A certificate that is not valid yet is used. The agent sends it once only, and the clocks of the
        // peers decide.
        let (serial, expiry) = serial_and_expiry(parsed.leaf());
        if now >= expiry {
            return Err(SvidFault::Expired(expiry));
        }
        Ok(Self {
            key: Arc::new(certified_key(&parsed)?),
            serial,
            expiry,
            parsed,
        })
    }

    /// Returns the SPIFFE ID.
    #[must_use]
    pub fn spiffe_id(&self) -> &SpiffeId {
        self.parsed.spiffe_id()
    }

    /// Returns the certificate of the workload itself, which is the first of the chain.
    #[must_use]
    pub fn leaf(&self) -> &Certificate {
        self.parsed.leaf()
    }

    /// Returns the certificates from the leaf upwards, without the trust anchor.
    #[must_use]
    pub fn cert_chain(&self) -> &[Certificate] {
        self.parsed.cert_chain()
    }

    /// Returns the private key, which is wiped with the SVID.
    #[must_use]
    pub fn private_key(&self) -> &PrivateKey {
        self.parsed.private_key()
    }

    /// Returns the serial number of the certificate in hexadecimal.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Returns the time when the certificate expires.
    #[must_use]
    pub fn expiry(&self) -> SystemTime {
        self.expiry
    }

    /// Returns the chain and the key in the form that rustls presents.
    pub(crate) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid")
            .field("spiffe_id", self.spiffe_id())
            .field("serial", &self.serial)
            .finish_non_exhaustive()
    }
}

/// Returns the serial number and `notAfter` of a certificate (RFC 5280 §4.1.2). The library has parsed the
/// same certificate, so a certificate that does not parse here counts as expired.
pub(super) fn serial_and_expiry(leaf: &Certificate) -> (String, SystemTime) {
    let serial = parse_x509_certificate(leaf.as_bytes())
        .map(|(_, certificate)| certificate.raw_serial_as_string());
    let expiry = certificate::expiry(leaf.as_bytes());
    (serial.unwrap_or_default(), expiry.unwrap_or(UNIX_EPOCH))
}

impl Trust {
    /// Reads the bundle of `trust_domain` from DER certificates, one after another.
    pub(super) fn read(trust_domain: &TrustDomain, der: &[u8]) -> Result<Self, X509BundleFault> {
        let bundle = X509Bundle::parse_from_der(trust_domain.clone(), der)
            .map_err(|error| X509BundleFault::Malformed(error.to_string()))?;
        if bundle.authorities().is_empty() {
            return Err(X509BundleFault::Empty);
        }
        let mut roots = RootCertStore::empty();
        let certificates = bundle.authorities().iter();
        roots.add_parsable_certificates(
            certificates.map(|one| CertificateDer::from(one.as_bytes().to_vec())),
        );
        if roots.is_empty() {
            return Err(X509BundleFault::NoAnchor);
        }
        Ok(Self {
            bundle: Arc::new(bundle),
            roots: Arc::new(roots),
        })
    }
}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        self.bundle.authorities() == other.bundle.authorities()
    }
}

impl X509Source {
    /// Returns the current X.509-SVID.
    ///
    /// # Errors
    /// Fails when the X.509-SVID was withdrawn or has expired, and in a process that fetches none.
    pub fn svid(&self) -> Result<Arc<X509Svid>, Unavailable> {
        let state = self.state.borrow();
        if let Some(Unavailable::Withdrawn(reason)) = &state.bundles.unavailable {
            return Err(Unavailable::Withdrawn(Arc::clone(reason)));
        }
        let svid = state.svid.as_ref().ok_or(Unavailable::NotFetched)?;
        if SystemTime::now() < svid.expiry {
            Ok(Arc::clone(svid))
        } else {
            Err(Unavailable::Expired)
        }
    }

    /// Returns the current X.509 bundles.
    ///
    /// # Errors
    /// Fails when they may not be used at present.
    pub fn bundle_set(&self) -> Result<X509BundleSet, Unavailable> {
        let state = self.state.borrow();
        let bundles = state.bundles.all()?.values();
        Ok(bundles.map(|one| X509Bundle::clone(&one.bundle)).collect())
    }

    /// Returns a number that changes with each update of the SVID or the bundles.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.state.borrow().revision
    }

    /// Takes note of the updates until now, so that [`Self::changed`] waits for a later one.
    pub(crate) fn mark_seen(&mut self) {
        self.state.mark_unchanged();
    }

    /// Waits for an update that this clone has not waited for yet. Returns `false` if there will be
    /// none.
    pub async fn changed(&mut self) -> bool {
        self.state.changed().await.is_ok()
    }

    /// Returns the bundle that verifies the peers of a trust domain, if there is one.
    pub(crate) fn trust(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Option<Arc<Trust>>, Unavailable> {
        let state = self.state.borrow();
        state.bundles.get(trust_domain)
    }
}

impl<T> Bundles<T> {
    /// Returns the bundle of a trust domain, if it has one.
    ///
    /// # Errors
    /// Fails when it has one that may not be used.
    pub(super) fn get(&self, trust_domain: &TrustDomain) -> Result<Option<Arc<T>>, Unavailable> {
        if self.unusable.contains(trust_domain) {
            Err(Unavailable::NoUsableBundle(trust_domain.clone()))
        } else {
            Ok(self.all()?.get(trust_domain).cloned())
        }
    }

    /// Returns all bundles that can be used.
    ///
    /// # Errors
    /// Fails when none may be used.
    pub(super) fn all(&self) -> Result<&BTreeMap<TrustDomain, Arc<T>>, Unavailable> {
        match &self.unavailable {
            Some(reason) => Err(reason.clone()),
            None => Ok(&self.usable),
        }
    }

    /// Returns whether both have the same bundles.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        let mut pairs = self.usable.iter().zip(&other.usable);
        self.unavailable == other.unavailable
            && self.unusable == other.unusable
            && self.usable.len() == other.usable.len()
            && pairs.all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(a.1, b.1))
    }
}

impl<T> Default for Bundles<T> {
    fn default() -> Self {
        Self {
            usable: BTreeMap::new(),
            unusable: BTreeSet::new(),
            unavailable: None,
        }
    }
}

impl X509State {
    /// Returns whether both have the same contents.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        let svids = [&self.svid, &other.svid].map(|svid| svid.as_ref().map(Arc::as_ptr));
        svids[0] == svids[1] && self.bundles.is_as(&other.bundles)
    }
}

impl BundleSource for X509Source {
    type Item = X509Bundle;
    type Error = Unavailable;

    fn bundle_for_trust_domain(
        &self,
        trust_domain: &TrustDomain,
    ) -> Result<Option<Arc<X509Bundle>>, Unavailable> {
        let trust = self.trust(trust_domain)?;
        Ok(trust.map(|trust| Arc::clone(&trust.bundle)))
    }
}
