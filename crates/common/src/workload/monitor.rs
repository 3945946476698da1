//! The state of a process's identity for people and probes, from before the first message on.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use spiffe::TrustDomain;
use tokio::sync::watch;

use super::{
    connection::Stream,
    counts::Counts,
    fault::{BundleFault, Kind},
    readiness::Readiness,
    seen::Seen,
    x509::{Bundles, Trust, Unavailable, X509State, X509Svid},
};
use crate::{
    certificate::{CertificateFacts, facts},
    jwt_bundle::JwtBundle,
    lock::lock,
    sanitize::Sanitized,
};

/// Has the state of what one process gets from the Workload API. Clones have the same state.
#[derive(Clone, Debug)]
pub struct Monitor(Arc<Observed>);

#[derive(Debug)]
struct Observed {
    overview: watch::Sender<Arc<Overview>>,
    counts: Counts,
    /// The last changes of the identity, the last one first.
    changes: Mutex<VecDeque<(SystemTime, String)>>,
}

/// The number of changes that are kept.
const MAX_CHANGES: usize = 20;

/// The most trust domains of a kind whose authorities are followed.
const MAX_DOMAINS: usize = 100;

/// The state at one moment.
#[derive(Debug)]
pub struct Overview {
    /// The streams that are followed; none before a source is connected.
    pub streams: Vec<StreamStatus>,
    /// The state of the identity; `None` until one is issued.
    pub readiness: Option<Readiness>,
    /// The time of the last change of the identity's state.
    pub since: SystemTime,
    /// The own trust domain, if an X.509-SVID is fetched.
    pub own: Option<TrustDomain>,
    /// The trust domains whose bundle in the last response cannot be used.
    pub faults: Vec<BundleFault>,
    pub(super) x509: Arc<X509State>,
    pub(super) jwt: Arc<Bundles<JwtBundle>>,
    pub(super) seen: Arc<Seen>,
}

/// A stream of the Workload API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamStatus {
    /// The stream.
    pub stream: Stream,
    /// The state.
    pub state: StreamState,
    /// The time since which it has this state.
    pub since: SystemTime,
}

/// The state of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamState {
    /// It has not delivered yet. The field has the last reason.
    Waiting(Option<String>),
    /// It delivers.
    Up,
    /// It delivers nothing, for this reason.
    Down(String),
}

/// A key or a certificate that a trust domain signs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The serial number of a certificate in hexadecimal, or the sanitized ID of a key.
    pub name: String,
    /// The time at which the certificate expires. A key has none.
    pub expiry: Option<SystemTime>,
    /// The time since which it is trusted, if that is known.
    pub since: Option<SystemTime>,
}

impl StreamStatus {
    /// Returns the last reason why the stream has not delivered yet, if there is one.
    #[must_use]
    pub fn obstacle(&self) -> Option<&str> {
        match &self.state {
            StreamState::Waiting(reason) => reason.as_deref(),
            StreamState::Up | StreamState::Down(_) => None,
        }
    }
}

impl Monitor {
    /// Returns a monitor of a process that begins now.
    #[must_use]
    pub fn new() -> Self {
        let overview = Overview {
            streams: Vec::new(),
            readiness: None,
            since: SystemTime::now(),
            own: None,
            faults: Vec::new(),
            x509: Arc::default(),
            jwt: Arc::default(),
            seen: Arc::default(),
        };
        Self(Arc::new(Observed {
            overview: watch::Sender::new(Arc::new(overview)),
            counts: Counts::default(),
            changes: Mutex::default(),
        }))
    }

    /// Returns the present state.
    #[must_use]
    pub fn overview(&self) -> Arc<Overview> {
        Arc::clone(&self.0.overview.borrow())
    }

    /// Returns a receiver that waits for changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Overview>> {
        self.0.overview.subscribe()
    }

    /// Returns the counts of the messages.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// Returns the last changes of the identity, the last one first.
    #[must_use]
    pub fn changes(&self) -> Vec<(SystemTime, String)> {
        lock(&self.0.changes).iter().cloned().collect()
    }

    pub(super) fn observe(&self, mut overview: Overview) {
        overview.seen = overview.seen_after(&self.overview(), SystemTime::now());
        self.0.overview.send_replace(Arc::new(overview));
    }

    /// Takes note of a change of the identity.
    pub(super) fn note(&self, change: String) {
        let mut changes = lock(&self.0.changes);
        changes.truncate(MAX_CHANGES - 1);
        changes.push_front((SystemTime::now(), change));
    }
}

impl Default for Monitor {
    fn default() -> Self {
        Self::new()
    }
}

impl Overview {
    /// Returns the X.509-SVID that came last, if there is one. It may be withdrawn or expired.
    #[must_use]
    pub fn svid(&self) -> Option<&Arc<X509Svid>> {
        self.x509.svid.as_ref()
    }

    /// Returns the trust domains whose bundles of a kind are trusted, with the own one first.
    ///
    /// # Errors
    /// Fails when no bundle of that kind may be used.
    pub fn trusted(&self, kind: Kind) -> Result<Vec<&TrustDomain>, Unavailable> {
        let mut domains: Vec<_> = match kind {
            Kind::X509 => self.x509.bundles.all()?.keys().collect(),
            Kind::Jwt => self.jwt.all()?.keys().collect(),
        };
        if let Some(own) = &self.own {
            // The sort is stable, so that the others keep their order.
            domains.sort_by_key(|domain| *domain != own);
        }
        Ok(domains)
    }

    /// Returns the trusted authorities of a trust domain; none if there is no bundle that may be used.
    #[must_use]
    pub fn authorities(&self, kind: Kind, trust_domain: &TrustDomain) -> Vec<Authority> {
        let names = self.names(kind, trust_domain).into_iter();
        let authority = |(name, expiry): (String, _)| Authority {
            since: self.seen.since(kind, trust_domain, &name),
            name,
            expiry,
        };
        names.map(authority).collect()
    }

    /// Returns the certificates of the X.509-SVID from the leaf upwards.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateFacts> {
        let chain = self.svid().map(|svid| svid.cert_chain());
        let chain = chain.unwrap_or_default().iter();
        chain.filter_map(|one| facts(one.as_bytes())).collect()
    }

    /// Returns the times since which the authorities are there, if this state comes at `now` after `before`.
    fn seen_after(&self, before: &Self, now: SystemTime) -> Arc<Seen> {
        let is_same = Arc::ptr_eq(&before.x509, &self.x509) && Arc::ptr_eq(&before.jwt, &self.jwt);
        if is_same {
            Arc::clone(&before.seen)
        } else {
            Arc::new(before.seen.then(self.followed(), now))
        }
    }

    /// Returns the authorities that are followed.
    fn followed(&self) -> Vec<(Kind, TrustDomain, String)> {
        let mut followed = Vec::new();
        for kind in [Kind::X509, Kind::Jwt] {
            let domains = self.trusted(kind).unwrap_or_default();
            for domain in domains.into_iter().take(MAX_DOMAINS) {
                let names = self.names(kind, domain).into_iter();
                followed.extend(names.map(|(name, _)| (kind, domain.clone(), name)));
            }
        }
        followed
    }

    /// Returns the name of each trusted authority of a trust domain, and the time at which it expires.
    fn names(&self, kind: Kind, trust_domain: &TrustDomain) -> Vec<(String, Option<SystemTime>)> {
        let names = match kind {
            Kind::X509 => found(self.x509.bundles.all(), trust_domain).map(certificates),
            Kind::Jwt => found(self.jwt.all(), trust_domain).map(key_ids),
        };
        names.unwrap_or_default()
    }
}

fn found<'a, T>(
    bundles: Result<&'a BTreeMap<TrustDomain, Arc<T>>, Unavailable>,
    trust_domain: &TrustDomain,
) -> Option<&'a T> {
    bundles.ok()?.get(trust_domain).map(|bundle| &**bundle)
}

fn certificates(trust: &Trust) -> Vec<(String, Option<SystemTime>)> {
    let authorities = trust.bundle.authorities().iter();
    let named = authorities.map(|one| {
        let (serial, expiry) = super::x509::serial_and_expiry(one);
        (serial, Some(expiry).filter(|expiry| *expiry > UNIX_EPOCH))
    });
    named.collect()
}

fn key_ids(bundle: &JwtBundle) -> Vec<(String, Option<SystemTime>)> {
    let ids = bundle.key_ids();
    ids.map(|id| (Sanitized(id).to_string(), None)).collect()
}
