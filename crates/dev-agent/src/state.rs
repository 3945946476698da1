//! The agent's whole state, and the snapshots of it that streams watch.
//!
//! Every change makes one new [`Snapshot`]; a stream that was busy meanwhile
//! sees the latest one only, so a slow reader costs no memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use serde_json::{Value, json};
use spiffe::{JwtBundle, JwtBundleSet, SpiffeId, TrustDomain};
use tokio::sync::watch;

use crate::authority::{Ca, Leaf};
use crate::config::Config;
use crate::entry::Entry;
use crate::error::Error;
use crate::federation::{self, FederatedBundle};
use crate::jwt::{JwtKey, jwk_set};
use crate::keyring::Keyring;
use crate::lock::lock;

pub(crate) mod status;

pub(crate) use status::Phase;

/// One entry that is in force, and the X.509-SVID of all callers that match it.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) entry: Arc<Entry>,
    pub(crate) leaf: Arc<Leaf>,
}

/// All that an answer is made from, at one moment.
pub(crate) struct Snapshot {
    pub(crate) phase: Phase,
    pub(crate) trust_domain: TrustDomain,
    /// In the order of the entries: the first that matches is the default.
    pub(crate) identities: Vec<Identity>,
    /// DER CA certificates of the own trust domain, one after another.
    pub(crate) x509_bundle: Vec<u8>,
    /// The same of the other trust domains, by trust domain ID.
    pub(crate) federated_x509: HashMap<String, Vec<u8>>,
    /// JWK Sets of all trust domains, by trust domain ID.
    pub(crate) jwt_bundles: HashMap<String, Vec<u8>>,
    /// The same, to validate tokens with.
    pub(crate) jwt_validators: JwtBundleSet,
    /// The key that signs tokens.
    pub(crate) jwt_key: Arc<JwtKey>,
}

/// The state that the handle, the timers and all connections share.
pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) trust_domain: TrustDomain,
    /// Each open stream has a clone.
    pub(crate) streams: Arc<()>,
    inner: Mutex<Inner>,
    snapshots: watch::Sender<Arc<Snapshot>>,
}

struct Inner {
    phase: Phase,
    registered: Vec<Registered>,
    cas: Keyring<Ca>,
    jwt_keys: Keyring<JwtKey>,
    federated: Vec<FederatedBundle>,
}

struct Registered {
    identity: Identity,
    withdrawn: bool,
}

impl State {
    /// Makes the keys and everybody's first SVID.
    pub(crate) fn new(config: Config) -> Result<Self, Error> {
        let trust_domain = config.check()?;
        let now = SystemTime::now();
        let cas = Keyring::new(Ca::new(&trust_domain, config.ca_ttl, now)?);
        let mut registered = Vec::new();
        for entry in &config.entries {
            let leaf = issue(&config, cas.current(), entry, now)?;
            registered.push(Registered {
                identity: Identity {
                    entry: Arc::new(entry.clone()),
                    leaf,
                },
                withdrawn: false,
            });
        }
        let inner = Inner {
            phase: Phase::Serving,
            registered,
            cas,
            jwt_keys: Keyring::new(JwtKey::generate()?),
            federated: config.federated.clone(),
        };
        let snapshot = inner.snapshot(&trust_domain)?;
        Ok(Self {
            config,
            trust_domain,
            streams: Arc::default(),
            inner: Mutex::new(inner),
            snapshots: watch::Sender::new(Arc::new(snapshot)),
        })
    }

    /// Watches the state from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.subscribe()
    }

    /// The state now.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.change(phase.name(), |inner| {
            inner.phase = phase;
            Ok(())
        });
    }

    /// Stalled or serving; a stopped agent is neither.
    pub(crate) fn set_stalled(&self, stalled: bool) -> Result<(), Error> {
        let phase = if stalled {
            Phase::Stalled
        } else {
            Phase::Serving
        };
        self.try_change(|inner| {
            if inner.phase == Phase::Stopped {
                return Err(Error::Stopped);
            }
            inner.phase = phase;
            Ok(())
        })?;
        tracing::info!("{}", phase.name());
        Ok(())
    }

    /// Puts the entries of this ID out of force, or back in force; what expired
    /// meanwhile is issued anew.
    pub(crate) fn set_withdrawn(&self, id: &SpiffeId, withdrawn: bool) -> Option<()> {
        let now = SystemTime::now();
        let done = if withdrawn {
            "entries withdrawn"
        } else {
            "entries restored"
        };
        self.change(done, |inner| {
            for registered in &mut inner.registered {
                if registered.identity.entry.id() == id {
                    registered.withdrawn = withdrawn;
                }
            }
            self.reissue_where(inner, |leaf| leaf.is_due(now))
        })
    }

    /// Changes the bundles of other trust domains, if they may be what they are then.
    pub(crate) fn federate<T>(
        &self,
        change: impl FnOnce(&mut Vec<FederatedBundle>) -> T,
    ) -> Result<T, Error> {
        self.try_change(|inner| {
            let mut bundles = inner.federated.clone();
            let result = change(&mut bundles);
            federation::check(&self.trust_domain, &bundles)?;
            inner.federated = bundles;
            Ok(result)
        })
    }

    /// Issues every X.509-SVID anew.
    pub(crate) fn reissue(&self) -> Option<()> {
        self.change("all X.509-SVIDs issued anew", |inner| {
            self.reissue_where(inner, |_| true)
        })
    }

    /// Issues anew the X.509-SVIDs whose time has come, if there are any.
    pub(crate) fn reissue_due(&self) {
        let now = SystemTime::now();
        let snapshot = self.snapshot();
        if snapshot.identities.iter().any(|i| i.leaf.is_due(now)) {
            self.change("X.509-SVIDs that were due issued anew", |inner| {
                self.reissue_where(inner, |leaf| leaf.is_due(now))
            });
        }
    }

    /// Publishes a CA that signs nothing yet.
    pub(crate) fn prepare_ca(&self) -> Option<Arc<Ca>> {
        self.change("next CA published", |inner| {
            let config = &self.config;
            inner
                .cas
                .prepare(|| Ca::new(&self.trust_domain, config.ca_ttl, SystemTime::now()))
        })
    }

    /// Issues every X.509-SVID anew under the prepared CA, until `until` or for good; says
    /// whether it is the one in use now.
    pub(crate) fn activate_ca(&self, ca: &Arc<Ca>, until: Option<SystemTime>) -> Option<bool> {
        self.change("next CA in use", |inner| {
            let used = inner.cas.activate(ca, until);
            if used {
                self.reissue_where(inner, |_| true)?;
            }
            Ok(used)
        })
    }

    pub(crate) fn drop_old_ca(&self) -> Option<usize> {
        self.change("old CAs dropped", |inner| Ok(inner.cas.drop_retired()))
    }

    /// Publishes a JWT key that signs nothing yet.
    pub(crate) fn prepare_jwt_key(&self) -> Option<Arc<JwtKey>> {
        self.change("next JWT key published", |inner| {
            inner.jwt_keys.prepare(JwtKey::generate)
        })
    }

    /// Signs with the prepared JWT key from now on; says whether it is the one in use now.
    pub(crate) fn activate_jwt_key(
        &self,
        key: &Arc<JwtKey>,
        until: Option<SystemTime>,
    ) -> Option<bool> {
        self.change("next JWT key in use", |inner| {
            Ok(inner.jwt_keys.activate(key, until))
        })
    }

    pub(crate) fn drop_old_jwt_key(&self) -> Option<usize> {
        self.change("old JWT keys dropped", |inner| {
            Ok(inner.jwt_keys.drop_retired())
        })
    }

    /// Drops the old keys whose last SVID has expired, if there are any.
    pub(crate) fn drop_expired(&self) {
        let now = SystemTime::now();
        let mut inner = self.lock();
        let cas = inner.cas.drop_expired(now);
        let jwt_keys = inner.jwt_keys.drop_expired(now);
        drop(inner);
        if cas || jwt_keys {
            self.change("expired keys dropped", |_| Ok(()));
        }
    }

    /// Forgets all keys, as an agent that was killed and started again.
    pub(crate) fn replace_keys(&self) -> Result<(), Error> {
        self.try_change(|inner| {
            let now = SystemTime::now();
            inner.cas = Keyring::new(Ca::new(&self.trust_domain, self.config.ca_ttl, now)?);
            inner.jwt_keys = Keyring::new(JwtKey::generate()?);
            self.reissue_where(inner, |_| true)
        })
    }

    /// The roots of the own trust domain in PEM, the one that signs first.
    pub(crate) fn roots_pem(&self) -> String {
        self.lock().cas.published().map(Ca::pem).collect()
    }

    /// The own trust domain's SPIFFE bundle document (Bundle §4).
    pub(crate) fn bundle_document(&self) -> String {
        let inner = self.lock();
        let with_use = |mut jwk: Value, usage: &str| {
            jwk["use"] = usage.into();
            jwk
        };
        let roots = inner
            .cas
            .published()
            .map(|ca| with_use(ca.jwk(), "x509-svid"));
        let jwt = inner
            .jwt_keys
            .published()
            .map(|key| with_use(key.jwk(), "jwt-svid"));
        json!({ "keys": roots.chain(jwt).collect::<Vec<_>>() }).to_string()
    }

    /// A change that fails publishes nothing: what is being served stays valid,
    /// and the next try may do better. The log has the reason.
    fn change<T>(
        &self,
        done: &str,
        change: impl FnOnce(&mut Inner) -> Result<T, Error>,
    ) -> Option<T> {
        self.try_change(change)
            .inspect(|_| tracing::info!("{done}"))
            .inspect_err(|error| tracing::error!(%error, "failed: {done}"))
            .ok()
    }

    fn try_change<T>(
        &self,
        change: impl FnOnce(&mut Inner) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut inner = self.lock();
        let result = change(&mut inner)?;
        let snapshot = inner.snapshot(&self.trust_domain)?;
        // Sent under the lock: snapshots arrive in the order of the changes.
        self.snapshots.send_replace(Arc::new(snapshot));
        Ok(result)
    }

    fn reissue_where(&self, inner: &mut Inner, due: impl Fn(&Leaf) -> bool) -> Result<(), Error> {
        let now = SystemTime::now();
        for registered in &mut inner.registered {
            let identity = &mut registered.identity;
            if due(&identity.leaf) {
                identity.leaf = issue(&self.config, inner.cas.current(), &identity.entry, now)?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code panics while it holds the lock half-way through a change.
        lock(&self.inner)
    }
}

impl Inner {
    fn snapshot(&self, own: &TrustDomain) -> Result<Snapshot, Error> {
        let own_jwks = jwk_set(self.jwt_keys.published().map(JwtKey::jwk));
        let mut federated_x509 = HashMap::new();
        let mut jwks = vec![(own, own_jwks)];
        for bundle in &self.federated {
            let x509 = bundle.x509_bundle();
            // No certificate: absent, as an empty value is no bundle (Workload API §4.4).
            if !x509.is_empty() {
                federated_x509.insert(bundle.trust_domain().id_string(), x509);
            }
            jwks.push((bundle.trust_domain(), jwk_set(bundle.jwks())));
        }
        let mut jwt_validators = JwtBundleSet::new();
        for (domain, jwks) in &jwks {
            let bundle = JwtBundle::from_jwt_authorities((*domain).clone(), jwks.as_bytes())
                .map_err(|_| Error::Crypto {
                    what: "read our own JWK Set",
                })?;
            jwt_validators.add_bundle(bundle);
        }
        Ok(Snapshot {
            phase: self.phase,
            trust_domain: own.clone(),
            identities: self
                .registered
                .iter()
                .filter(|registered| !registered.withdrawn)
                .map(|registered| registered.identity.clone())
                .collect(),
            x509_bundle: self.cas.published().flat_map(Ca::der).copied().collect(),
            federated_x509,
            jwt_bundles: jwks
                .into_iter()
                .map(|(domain, jwks)| (domain.id_string(), jwks.into_bytes()))
                .collect(),
            jwt_validators,
            jwt_key: self.jwt_keys.current().clone(),
        })
    }
}

fn issue(config: &Config, ca: &Ca, entry: &Entry, now: SystemTime) -> Result<Arc<Leaf>, Error> {
    let ttl = entry.x509_ttl().unwrap_or(config.x509_ttl);
    ca.issue(entry, ttl, now).map(Arc::new)
}
