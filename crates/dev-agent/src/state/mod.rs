//! The agent's whole state, and the snapshots of it that streams watch.
//!
//! Every change makes one new [`Snapshot`]. A stream that is busy meanwhile sees only the latest
//! one, so a slow reader costs no memory.

mod contents;
mod published;
mod snapshot;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use spiffe::{SpiffeId, TrustDomain};
use tokio::sync::watch;
use tracing::{error, info};

pub(crate) use self::snapshot::{ActiveEntry, Snapshot};
use self::{
    contents::{Contents, Registered},
    published::Published,
};
use crate::{
    authority::{Ca, Leaf},
    config::Config,
    entry::Entry,
    error::Error,
    federation::{self, FederatedBundle, Partner},
    jwk::jwk_set,
    jwt::JwtKey,
    keyring::Keyring,
    lock::lock,
    status::{Phase, Status},
};

/// The state that the handle, the timers and all connections share.
pub(crate) struct State {
    pub(crate) config: Config,
    pub(crate) trust_domain: TrustDomain,
    /// Each open stream holds a clone, so that the strong count tells how many there are.
    pub(crate) streams: Arc<()>,
    contents: Mutex<Contents>,
    snapshots: watch::Sender<Arc<Snapshot>>,
}

impl State {
    /// Makes the keys and the first SVID of each entry.
    pub(crate) fn new(config: Config) -> Result<Self, Error> {
        let trust_domain = config.check()?;
        let now = SystemTime::now();
        let cas = Keyring::new(Ca::new(&trust_domain, config.ca_ttl, now)?);
        let mut registered = Vec::new();
        for entry in &config.entries {
            let leaf = issue(&config, cas.current(), entry, now)?;
            registered.push(Registered {
                active: ActiveEntry {
                    entry: Arc::new(entry.clone()),
                    leaf,
                },
                withdrawn: false,
            });
        }
        let bootstrap = config.partners.iter().filter_map(Partner::bootstrap);
        let federated = config.federated.iter().chain(bootstrap);
        let mut contents = Contents {
            phase: Phase::Serving,
            registered,
            cas,
            jwt_keys: Keyring::new(JwtKey::generate()?),
            federated: federated.cloned().collect(),
            published: Published::default(),
        };
        contents.publish();
        let snapshot = contents.snapshot(&trust_domain)?;
        Ok(Self {
            config,
            trust_domain,
            streams: Arc::default(),
            contents: Mutex::new(contents),
            snapshots: watch::Sender::new(Arc::new(snapshot)),
        })
    }

    /// Returns a receiver of every snapshot from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.subscribe()
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// Returns the status of the agent, whose Workload API is at `socket`.
    pub(crate) fn status(&self, socket: &Path) -> Status {
        // One clone is the state's own.
        let open_streams = Arc::strong_count(&self.streams) - 1;
        self.lock().status(&self.trust_domain, socket, open_streams)
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.change(phase.name(), |contents| {
            contents.phase = phase;
            Ok(())
        });
    }

    /// Sets the phase to stalled or serving.
    ///
    /// # Errors
    /// Fails on a stopped agent, which is neither.
    pub(crate) fn set_stalled(&self, stalled: bool) -> Result<(), Error> {
        let phase = if stalled {
            Phase::Stalled
        } else {
            Phase::Serving
        };
        self.try_change(|contents| {
            if contents.phase == Phase::Stopped {
                return Err(Error::Stopped);
            }
            contents.phase = phase;
            Ok(())
        })?;
        info!("{}", phase.name());
        Ok(())
    }

    /// Withdraws the entries of this ID, or restores them. Reissues what expired meanwhile.
    pub(crate) fn set_withdrawn(&self, id: &SpiffeId, withdrawn: bool) -> Option<()> {
        let now = SystemTime::now();
        let done = if withdrawn {
            "entries withdrawn"
        } else {
            "entries restored"
        };
        self.change(done, |contents| {
            for registered in &mut contents.registered {
                if registered.active.entry.id() == id {
                    registered.withdrawn = withdrawn;
                }
            }
            self.reissue_where(contents, |leaf| leaf.is_due(now))
        })
    }

    /// Changes the bundles of other trust domains.
    ///
    /// # Errors
    /// Fails if the change or the changed bundles are refused; then nothing changes.
    pub(crate) fn federate<T>(
        &self,
        change: impl FnOnce(&mut Vec<FederatedBundle>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.try_change(|contents| {
            let mut bundles = contents.federated.clone();
            let result = change(&mut bundles)?;
            federation::check(&self.trust_domain, &bundles)?;
            contents.federated = bundles;
            Ok(result)
        })
    }

    /// Returns the bundle of another trust domain.
    pub(crate) fn federated(&self, trust_domain: &TrustDomain) -> Option<FederatedBundle> {
        let contents = self.lock();
        let mut bundles = contents.federated.iter();
        bundles
            .find(|bundle| bundle.trust_domain() == trust_domain)
            .cloned()
    }

    /// Returns the CA certificates of a trust domain in DER, the own one included.
    pub(crate) fn authorities(&self, trust_domain: &TrustDomain) -> Vec<Vec<u8>> {
        if *trust_domain == self.trust_domain {
            let contents = self.lock();
            return contents
                .cas
                .published()
                .map(|ca| ca.der().to_vec())
                .collect();
        }
        let bundle = self.federated(trust_domain);
        bundle.map_or_else(Vec::new, |bundle| bundle.certificates().to_vec())
    }

    /// Issues every X.509-SVID again.
    pub(crate) fn reissue(&self) -> Option<()> {
        self.change("all X.509-SVIDs issued again", |contents| {
            self.reissue_where(contents, |_| true)
        })
    }

    /// Issues the X.509-SVIDs that are due again, if there are any.
    pub(crate) fn reissue_due(&self) {
        let now = SystemTime::now();
        let snapshot = self.snapshot();
        if snapshot.entries.iter().any(|entry| entry.leaf.is_due(now)) {
            self.change("due X.509-SVIDs issued again", |contents| {
                self.reissue_where(contents, |leaf| leaf.is_due(now))
            });
        }
    }

    /// Publishes a CA that signs nothing yet.
    pub(crate) fn prepare_ca(&self) -> Option<Arc<Ca>> {
        self.change("next CA published", |contents| {
            let config = &self.config;
            contents
                .cas
                .prepare(|| Ca::new(&self.trust_domain, config.ca_ttl, SystemTime::now()))
        })
    }

    /// Issues every X.509-SVID again under the prepared CA. Keeps the old CA in the bundle until
    /// `until`, or until it is dropped. Fails if another rotation has replaced `ca`.
    pub(crate) fn activate_ca(&self, ca: &Arc<Ca>, until: Option<SystemTime>) -> Option<()> {
        self.change("next CA in use", |contents| {
            if !contents.cas.activate(ca, until) {
                return Err(Error::Superseded { what: "CA" });
            }
            self.reissue_where(contents, |_| true)
        })
    }

    /// Drops the CAs that are not in use any more. Returns how many there were.
    pub(crate) fn drop_old_ca(&self) -> Option<usize> {
        self.change("old CAs dropped", |contents| {
            Ok(contents.cas.drop_retired())
        })
    }

    /// Publishes a JWT key that signs nothing yet.
    pub(crate) fn prepare_jwt_key(&self) -> Option<Arc<JwtKey>> {
        self.change("next JWT key published", |contents| {
            contents.jwt_keys.prepare(JwtKey::generate)
        })
    }

    /// Signs with the prepared JWT key from now on. Keeps the old key in the bundle until `until`,
    /// or until it is dropped. Fails if another rotation has replaced `key`.
    pub(crate) fn activate_jwt_key(
        &self,
        key: &Arc<JwtKey>,
        until: Option<SystemTime>,
    ) -> Option<()> {
        self.change("next JWT key in use", |contents| {
            if !contents.jwt_keys.activate(key, until) {
                return Err(Error::Superseded { what: "JWT key" });
            }
            Ok(())
        })
    }

    /// Drops the JWT keys that are not in use any more. Returns how many there were.
    pub(crate) fn drop_old_jwt_key(&self) -> Option<usize> {
        self.change("old JWT keys dropped", |contents| {
            Ok(contents.jwt_keys.drop_retired())
        })
    }

    /// Drops the old keys whose last SVID has expired, if there are any.
    pub(crate) fn drop_expired(&self) {
        let now = SystemTime::now();
        let mut contents = self.lock();
        let cas = contents.cas.drop_expired(now);
        let jwt_keys = contents.jwt_keys.drop_expired(now);
        drop(contents);
        if cas || jwt_keys {
            self.change("expired keys dropped", |_| Ok(()));
        }
    }

    /// Replaces all keys, as a killed agent does when it is started again.
    pub(crate) fn replace_keys(&self) -> Result<(), Error> {
        self.try_change(|contents| {
            let now = SystemTime::now();
            contents.cas = Keyring::new(Ca::new(&self.trust_domain, self.config.ca_ttl, now)?);
            contents.jwt_keys = Keyring::new(JwtKey::generate()?);
            self.reissue_where(contents, |_| true)
        })
    }

    /// Returns the roots of the own trust domain in PEM, the one that signs first.
    pub(crate) fn roots_pem(&self) -> String {
        self.lock().cas.published().map(Ca::pem).collect()
    }

    /// Returns the SPIFFE bundle document of the own trust domain (Bundle §4), with this refresh hint.
    pub(crate) fn bundle_document(&self, refresh_hint: Duration) -> String {
        self.lock().published.document(refresh_hint)
    }

    /// Returns the sequence number of the own bundle.
    pub(crate) fn bundle_sequence(&self) -> u64 {
        self.lock().published.sequence()
    }

    /// Returns the JWK Set for validators that do not speak SPIFFE. They expect `use` and `alg`.
    pub(crate) fn oidc_keys(&self) -> String {
        let contents = self.lock();
        let with_use = |key: &JwtKey| {
            let mut jwk = key.jwk();
            jwk["use"] = "sig".into();
            jwk["alg"] = "ES256".into();
            jwk
        };
        jwk_set(contents.jwt_keys.published().map(with_use))
    }

    /// Issues an X.509-SVID that no entry has, for an endpoint of the agent itself.
    pub(crate) fn issue_for_endpoint(&self, id: &SpiffeId) -> Result<Leaf, Error> {
        let ca = Arc::clone(self.lock().cas.current());
        ca.issue(id, &[], self.config.x509_ttl, SystemTime::now())
    }

    /// Changes the state, and logs `done` or the reason why not. Returns `None` after a failure.
    ///
    /// A change that fails publishes nothing, so the served SVIDs stay valid until the next try.
    fn change<T>(
        &self,
        done: &str,
        change: impl FnOnce(&mut Contents) -> Result<T, Error>,
    ) -> Option<T> {
        self.try_change(change)
            .inspect(|_| info!("{done}"))
            .inspect_err(|error| error!(%error, "failed: {done}"))
            .ok()
    }

    /// Changes the state and publishes a snapshot of it.
    fn try_change<T>(
        &self,
        change: impl FnOnce(&mut Contents) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut contents = self.lock();
        let result = change(&mut contents)?;
        contents.publish();
        let snapshot = contents.snapshot(&self.trust_domain)?;
        // Sending under the lock keeps the snapshots in the order of the changes.
        self.snapshots.send_replace(Arc::new(snapshot));
        Ok(result)
    }

    /// Issues every X.509-SVID again that `due` selects.
    fn reissue_where(
        &self,
        contents: &mut Contents,
        due: impl Fn(&Leaf) -> bool,
    ) -> Result<(), Error> {
        let now = SystemTime::now();
        for registered in &mut contents.registered {
            let active = &mut registered.active;
            if due(&active.leaf) {
                active.leaf = issue(&self.config, contents.cas.current(), &active.entry, now)?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        // No code panics in the middle of a change, so the contents are whole after a panic.
        lock(&self.contents)
    }
}

/// Issues the X.509-SVID of `entry` under `ca`.
fn issue(config: &Config, ca: &Ca, entry: &Entry, now: SystemTime) -> Result<Arc<Leaf>, Error> {
    let ttl = entry.x509_ttl().unwrap_or(config.x509_ttl);
    ca.issue(entry.id(), entry.dns_names(), ttl, now)
        .map(Arc::new)
}
