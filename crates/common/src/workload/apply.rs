//! The effect of a message on the X.509-SVID and the bundles of this process.
//!
//! - `applied`: its log lines

mod applied;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use spiffe::{SpiffeId, TrustDomain};
use workload_api::pb;

pub(super) use self::applied::Applied;
use super::{
    absence::{Absence, Wiped},
    choice::{Choice, Offered},
    connection::{Message, Stream},
    domains::{self, Change, Domains, MAX_ITEMS},
    error::Reason,
    fault::{BundleFault, Kind},
    readiness::Life,
    report,
    x509::{Bundles, SvidFault, Trust, Unavailable, X509State, X509Svid},
};
use crate::jwt_bundle::JwtBundle;

/// The most faults of a kind that an observer gets.
const MAX_FAULTS: usize = 100;

/// Everything of the Workload API that is in use.
pub(super) struct Held {
    choice: Choice,
    /// The time for which bundles stay in use after messages that should have replaced them and cannot be
    /// used.
    grace: Duration,
    svid: Option<Arc<X509Svid>>,
    life: Option<Life>,
    /// True from a message that has the identity until one that withdraws it.
    is_issued: bool,
    absence: Option<Absence>,
    x509: Domains<Trust>,
    jwt: Domains<JwtBundle>,
}

impl Held {
    pub(super) fn new(choice: Choice, grace: Duration) -> Self {
        Self {
            choice,
            grace,
            svid: None,
            life: None,
            is_issued: false,
            absence: None,
            x509: Domains::default(),
            jwt: Domains::default(),
        }
    }

    /// Applies a message at the time `now`. A message that cannot be used changes nothing, except that a
    /// message with an unusable X.509-SVID replaces the bundles.
    ///
    /// # Errors
    /// Fails with the reason why the message, or its X.509-SVID, cannot be used.
    pub(super) fn apply(&mut self, message: Message, now: SystemTime) -> Result<Applied, Reason> {
        match message {
            Message::X509Svids(message) => self.x509_message(Wiped(message), now),
            Message::X509Bundles(message) => {
                within_bounds(message.bundles.len(), "X.509 bundles")?;
                let bundles = message.bundles.iter();
                let bundles = bundles.map(|(name, der)| (name.as_str(), &der[..]));
                Ok(Applied {
                    x509: self.x509.apply(bundles, Trust::read, now),
                    ..Applied::default()
                })
            }
            Message::JwtBundles(message) => {
                within_bounds(message.bundles.len(), "JWT bundles")?;
                let bundles = message.bundles.iter();
                let bundles = bundles.map(|(name, jwks)| (name.as_str(), &jwks[..]));
                let read = |_: &TrustDomain, jwks: &[u8]| JwtBundle::parse(jwks);
                Ok(Applied {
                    jwt: self.jwt.apply(bundles, read, now),
                    ..Applied::default()
                })
            }
        }
    }

    fn x509_message(&mut self, message: Wiped, now: SystemTime) -> Result<Applied, Reason> {
        within_bounds(message.0.svids.len(), "X.509-SVIDs")?;
        // A message may have no federated trust domains.
        within_bounds(message.0.federated_bundles.len().max(1), "X.509 bundles")?;
        let before = self.absence.take();
        let Some(held) = self.absent_from(&message.0, now) else {
            return self.x509_svids(&message.0, now);
        };
        match Absence::after(before, message, now) {
            Ok(absence) => {
                let x509 = self.other_bundles(&absence.message.0, held.trust_domain(), now);
                self.absence = Some(absence);
                Ok(Applied {
                    x509,
                    ..Applied::default()
                })
            }
            Err(message) => self.x509_svids(&message.0, now),
        }
    }

    /// Returns the identity that this process may use at `now`, if a message lacks it.
    fn absent_from(&self, message: &pb::X509svidResponse, now: SystemTime) -> Option<SpiffeId> {
        let svid = self.svid.as_ref()?;
        let id = svid.spiffe_id().to_string();
        let is_absent = message.svids.iter().all(|one| one.spiffe_id != id);
        let is_absent = is_absent && self.is_issued && now < svid.expiry();
        is_absent.then(|| svid.spiffe_id().clone())
    }

    /// Applies the bundles of a message that lacks the identity. A message without any identity of the own
    /// trust domain has no bundle of it, and changes nothing.
    fn other_bundles(
        &mut self,
        message: &pb::X509svidResponse,
        own: &TrustDomain,
        now: SystemTime,
    ) -> domains::Applied<Trust> {
        let is_own = |id: &str| SpiffeId::new(id).is_ok_and(|id| id.trust_domain() == own);
        let mut svids = message.svids.iter();
        match svids.find(|one| is_own(&one.spiffe_id)) {
            Some(entry) => self.x509_bundles(message, entry, own, now),
            None => domains::Applied::default(),
        }
    }

    fn x509_bundles(
        &mut self,
        message: &pb::X509svidResponse,
        chosen: &pb::X509svid,
        own: &TrustDomain,
        now: SystemTime,
    ) -> domains::Applied<Trust> {
        let bundles = bundles(message, chosen, own);
        let bundles = bundles.iter().map(|(name, der)| (name.as_str(), *der));
        self.x509.apply(bundles, Trust::read, now)
    }

    /// Applies the last message if it lacks the identity, and no message with the identity came in
    /// time.
    pub(super) fn end_absence(&mut self, now: SystemTime) -> Option<Result<Applied, Reason>> {
        let absence = self.absence.take_if(|absence| now >= absence.end())?;
        Some(self.x509_svids(&absence.message.0, now))
    }

    /// Returns whether the last message lacks the identity, which stays in use for a moment.
    pub(super) fn is_absent(&self) -> bool {
        self.absence.is_some()
    }

    /// Takes note of a withdrawal.
    pub(super) fn withdraw(&mut self) {
        (self.is_issued, self.absence) = (false, None);
    }

    fn x509_svids(
        &mut self,
        message: &pb::X509svidResponse,
        now: SystemTime,
    ) -> Result<Applied, Reason> {
        let offered = message.svids.iter().map(|one| Offered {
            id: &one.spiffe_id,
            hint: &one.hint,
        });
        let held = self.svid.as_ref().map(|svid| svid.spiffe_id());
        let index = self.choice.among(offered, held);
        let entry = &message.svids[index.map_err(Reason::NotIssued)?];
        let id = SpiffeId::new(&entry.spiffe_id);
        let id = id.map_err(|error| Reason::Unusable(format!("its SPIFFE ID: {error}")))?;
        let own = id.trust_domain();
        let x509 = self.x509_bundles(message, entry, own, now);
        let svid = match self.x509.fault(own) {
            Some((fault, _)) => Err(SvidFault::Bundle(fault.to_owned())),
            None => X509Svid::read(entry, now),
        };
        let mut applied = Applied {
            x509,
            ..Applied::default()
        };
        match svid {
            Ok(svid) => self.replace_svid(svid, now, &mut applied),
            Err(fault) => {
                // The bundles of the message are in use, although its X.509-SVID is not.
                applied.log_faults(self.grace);
                return Err(Reason::UnusableSvid(fault));
            }
        }
        Ok(applied)
    }

    /// Uses `svid` from `now` on, unless it is the current one.
    fn replace_svid(&mut self, svid: X509Svid, now: SystemTime, applied: &mut Applied) {
        self.is_issued = true;
        if let Some(current) = &self.svid {
            if current.leaf() == svid.leaf() {
                return;
            }
            let is_other = current.spiffe_id() != svid.spiffe_id();
            applied.former_id = is_other.then(|| current.spiffe_id().clone());
        }
        let svid = Arc::new(svid);
        self.life = Some(Life {
            since: now,
            until: svid.expiry(),
        });
        self.svid = Some(Arc::clone(&svid));
        applied.svid = Some(svid);
    }

    /// Returns whether a stream has delivered what the process needs to start.
    ///
    /// # Errors
    /// Fails with the reason why something is missing.
    pub(super) fn is_complete(&self, stream: Stream) -> Result<(), Reason> {
        let own = self.own_domain();
        match stream {
            Stream::JwtBundles => match own.and_then(|own| Some((own, self.jwt.fault(own)?))) {
                Some((own, (fault, _))) => Err(Reason::Unusable(format!(
                    "the JWT bundle of {own}: {fault}"
                ))),
                None => Ok(()),
            },
            Stream::X509Svids | Stream::X509Bundles => Ok(()),
        }
    }

    /// Takes note that the current X.509-SVID is the only one from `now` on, because no other can come.
    pub(super) fn begin_outage(&mut self, now: SystemTime) {
        if let Some(life) = &mut self.life {
            life.since = now;
        }
    }

    /// Ends the trust in bundles that were not renewed in time. Returns a text for each kind.
    pub(super) fn expire(&mut self, now: SystemTime) -> Vec<String> {
        let x509 = report::x509(&self.x509.expire(self.grace, now));
        let jwt = report::jwt(&self.jwt.expire(self.grace, now));
        x509.into_iter().chain(jwt).collect()
    }

    /// Returns the next time at which [`Self::expire`] or [`Self::end_absence`] has an effect.
    pub(super) fn next_expiry(&self) -> Option<SystemTime> {
        let x509 = self.x509.next_expiry(self.grace);
        let jwt = self.jwt.next_expiry(self.grace);
        let absence = self.absence.as_ref().map(Absence::end);
        x509.into_iter().chain(jwt).chain(absence).min()
    }

    pub(super) fn grace(&self) -> Duration {
        self.grace
    }

    pub(super) fn life(&self) -> Option<Life> {
        self.life
    }

    pub(super) fn spiffe_id(&self) -> Option<&SpiffeId> {
        Some(self.svid.as_ref()?.spiffe_id())
    }

    /// Returns the own trust domain. It is not known to a process that fetches no X.509-SVID.
    pub(super) fn own_domain(&self) -> Option<&TrustDomain> {
        Some(self.spiffe_id()?.trust_domain())
    }

    /// Returns the faults of single trust domains, at most [`MAX_FAULTS`] of each kind.
    pub(super) fn faults(&self) -> Vec<BundleFault> {
        let fault = |kind| {
            move |(domain, reason, since): (&TrustDomain, &str, SystemTime)| BundleFault {
                kind,
                trust_domain: domain.clone(),
                reason: reason.to_owned(),
                since,
            }
        };
        let x509 = self.x509.faults().take(MAX_FAULTS).map(fault(Kind::X509));
        let jwt = self.jwt.faults().take(MAX_FAULTS).map(fault(Kind::Jwt));
        x509.chain(jwt).collect()
    }

    /// Returns the time since which a bundle of the own trust domain cannot be renewed.
    pub(super) fn own_fault(&self) -> Option<SystemTime> {
        let own = self.own_domain()?;
        let faults = [self.x509.fault(own), self.jwt.fault(own)];
        faults.into_iter().flatten().map(|(_, since)| since).min()
    }

    /// Returns whether a bundle of the own trust domain is no longer trusted because it could not be
    /// renewed.
    pub(super) fn has_lost_own_trust(&self) -> bool {
        let Some(own) = self.own_domain() else {
            return false;
        };
        let is_lost = |fault: Option<_>, is_trusted: bool| fault.is_some() && !is_trusted;
        is_lost(self.x509.fault(own), self.x509.trusts(own))
            || is_lost(self.jwt.fault(own), self.jwt.trusts(own))
    }

    /// Returns the X.509 state to publish. None of it may be used if it is `unavailable`.
    pub(super) fn x509_state(&self, unavailable: Option<Unavailable>, revision: u64) -> X509State {
        X509State {
            svid: self.svid.clone(),
            bundles: published(&self.x509, unavailable),
            revision,
        }
    }

    /// Returns the JWT bundles to publish. None of them may be used if they are `unavailable`.
    pub(super) fn jwt_bundles(&self, unavailable: Option<Unavailable>) -> Bundles<JwtBundle> {
        published(&self.jwt, unavailable)
    }

    /// Describes everything that is in use.
    pub(super) fn summary(&self) -> String {
        let svid = self.svid.as_deref().map(report::svid);
        let x509 = report::x509(&all_new(self.x509.bundles()));
        let jwt = report::jwt(&all_new(self.jwt.bundles()));
        let parts: Vec<_> = [svid, x509, jwt].into_iter().flatten().collect();
        parts.join("; ")
    }
}

/// Returns the X.509 bundles of a message by trust domain ID. The bundle of the chosen X.509-SVID is the
/// one of its trust domain, whatever else the message has for that.
fn bundles<'a>(
    message: &'a pb::X509svidResponse,
    chosen: &'a pb::X509svid,
    own: &TrustDomain,
) -> BTreeMap<String, &'a [u8]> {
    let is_own = |name: &str| TrustDomain::new(name).is_ok_and(|domain| domain == *own);
    let federated = message.federated_bundles.iter();
    let mut bundles: BTreeMap<_, _> = federated
        .filter(|(name, _)| !is_own(name))
        .map(|(name, der)| (name.clone(), &der[..]))
        .collect();
    for svid in &message.svids {
        let domain = SpiffeId::new(&svid.spiffe_id).map(|id| id.trust_domain().clone());
        if let Ok(domain) = domain.as_ref().map(TrustDomain::id_string) {
            bundles.entry(domain).or_insert(&svid.bundle);
        }
    }
    bundles.insert(own.id_string(), &chosen.bundle);
    bundles
}

/// Checks the number of items of a message.
fn within_bounds(count: usize, what: &str) -> Result<(), Reason> {
    match count {
        0 => Err(Reason::Unusable(format!("it has no {what}"))),
        1..=MAX_ITEMS => Ok(()),
        _ => Err(Reason::Unusable(format!(
            "it has {count} {what}, and at most {MAX_ITEMS} are accepted"
        ))),
    }
}

fn published<T>(domains: &Domains<T>, unavailable: Option<Unavailable>) -> Bundles<T> {
    Bundles {
        usable: domains.bundles(),
        unusable: domains.unusable(),
        unavailable,
    }
}

fn all_new<T>(bundles: BTreeMap<TrustDomain, Arc<T>>) -> Vec<Change<T>> {
    let bundles = bundles.into_iter();
    let new = bundles.map(|(domain, bundle)| Change {
        domain,
        before: None,
        after: Some(bundle),
    });
    new.collect()
}
