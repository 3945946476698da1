//! The one task that applies what the Workload API sends, and tells what changed.
//!
//! All streams report to it, in one queue. Each change of state is therefore one log line, and the lines
//! are in the order of the changes.
//!
//! [`super`] says what is trusted, and for how long.
//!
//! - `start`: the start, until every stream has delivered
//! - `missing`: the streams that have not delivered yet

mod missing;
mod start;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tracing::{error, warn};

use self::missing::Missing;
use super::{
    apply::{Applied, Held},
    choice::Choice,
    connection::{Message, Stream},
    error::Reason,
    follow::Event,
    link::Link,
    monitor::{Monitor, Overview},
    readiness::{Degradation, Facts, Readiness, Unready},
    report,
    x509::{Bundles, Unavailable, X509State},
};
use crate::jwt_bundle::JwtBundle;

/// The longest interval between readings of the clock, which may be set at any time.
const MAX_INTERVAL: Duration = Duration::from_secs(10);

/// The reports of all streams, in order.
pub(super) type Events = mpsc::Receiver<(Stream, Event)>;

/// Keeps the identity and the bundles of a process, and publishes them.
pub(super) struct Keeper {
    links: BTreeMap<Stream, Link>,
    held: Held,
    x509: watch::Sender<Arc<X509State>>,
    jwt: watch::Sender<Arc<Bundles<JwtBundle>>>,
    readiness: watch::Sender<Readiness>,
    /// The cause of the present outage of the Workload API. It is `None` once the process is ready again.
    away: Option<String>,
    /// The time of the last change of the readiness.
    assessed: SystemTime,
    /// The observer of all of this, if there is one.
    monitor: Option<Monitor>,
}

/// The receivers of what a [`Keeper`] publishes.
pub(super) struct Published {
    pub(super) x509: watch::Receiver<Arc<X509State>>,
    pub(super) jwt: watch::Receiver<Arc<Bundles<JwtBundle>>>,
    pub(super) readiness: watch::Receiver<Readiness>,
}

impl Keeper {
    /// Returns a keeper of what these streams deliver, and the receivers of what it publishes.
    pub(super) fn new(
        streams: &[Stream],
        choice: Choice,
        grace: Duration,
        monitor: Option<Monitor>,
    ) -> (Self, Published) {
        let (x509, jwt) = (watch::Sender::default(), watch::Sender::default());
        let readiness = watch::Sender::new(Readiness::Ready);
        let published = Published {
            x509: x509.subscribe(),
            jwt: jwt.subscribe(),
            readiness: readiness.subscribe(),
        };
        let links = streams.iter().map(|stream| (*stream, Link::default()));
        let keeper = Self {
            links: links.collect(),
            held: Held::new(choice, grace),
            x509,
            jwt,
            readiness,
            away: None,
            assessed: SystemTime::now(),
            monitor,
        };
        (keeper, published)
    }

    /// Applies, publishes and logs every change, until the streams are no longer followed.
    pub(super) async fn run(mut self, mut events: Events) {
        loop {
            let now = SystemTime::now();
            self.expire(now);
            self.publish(now);
            self.assess(now);
            self.observe(None);
            tokio::select! {
                event = events.recv() => match event {
                    Some((stream, event)) => self.on(stream, event),
                    None => return,
                },
                () = sleep(self.next_assessment(SystemTime::now())) => {}
            }
        }
    }

    fn on(&mut self, stream: Stream, event: Event) {
        let now = SystemTime::now();
        match event {
            Event::Message(message) => {
                let applied = self.apply(stream, message, now);
                self.settle(stream, applied, now);
            }
            Event::Lost(reason) => self.lose(stream, &reason, now),
        }
    }

    /// Applies a message, and counts it.
    fn apply(
        &mut self,
        stream: Stream,
        message: Message,
        now: SystemTime,
    ) -> Result<Applied, Reason> {
        self.links.entry(stream).or_default().deliver(now);
        let applied = self.held.apply(message, now);
        self.count_message(stream, applied.as_ref().map(Applied::is_whole));
        applied
    }

    /// Publishes and logs the effect of a message.
    fn settle(&mut self, stream: Stream, applied: Result<Applied, Reason>, now: SystemTime) {
        match applied {
            Ok(applied) => {
                // A message that lacks the identity does not show that the next X.509-SVID can be used.
                if stream != Stream::X509Svids || !self.held.is_absent() {
                    self.links.entry(stream).or_default().accept();
                }
                self.publish(now);
                if let Some(changes) = applied.log(self.held.spiffe_id()) {
                    self.tell(|| format!("identity updated: {changes}"));
                }
                applied.log_faults(self.held.grace());
            }
            Err(reason) => self.refuse(stream, &reason, now),
        }
    }

    /// Counts a message, and the reason why it cannot be used.
    fn count_message(&self, stream: Stream, is_whole: Result<bool, &Reason>) {
        if let Some(monitor) = &self.monitor {
            monitor.counts().note(stream, is_whole);
        }
    }

    /// Takes note of the end of a stream. An end that withdraws the identity, or that has an unusable message,
    /// is not an outage.
    fn lose(&mut self, stream: Stream, reason: &Reason, now: SystemTime) {
        if reason.is_withdrawal() || matches!(reason, Reason::Unusable(_)) {
            self.count_message(stream, Err(reason));
            return self.refuse(stream, reason, now);
        }
        let was_up = !self.links.values().any(Link::is_lost);
        self.links.entry(stream).or_default().lose(reason, now);
        if was_up {
            // The current SVID is the only one from now on.
            self.held.begin_outage(now);
            self.away = Some(reason.to_string());
        }
    }

    /// Takes note of a message that withdraws the identity, or that cannot be used.
    fn refuse(&mut self, stream: Stream, reason: &Reason, now: SystemTime) {
        let link = self.links.entry(stream).or_default();
        if reason.is_withdrawal() {
            link.withdraw(reason);
            if stream == Stream::X509Svids {
                self.held.withdraw();
            }
        } else if link.refuse(reason, now) {
            let left = self
                .trusted_until(now)
                .map(|until| report::left(until, now));
            let left = left.map_or(String::new(), |left| format!(", for {left}"));
            error!(
                "the Workload API sent an update that can't be used: {}; \
                 continuing with the one before{left}",
                reason.fault()
            );
        }
    }

    /// Ends the use of an identity that is missing for too long. Also ends the trust in bundles of single
    /// trust domains that were not renewed in time.
    fn expire(&mut self, now: SystemTime) {
        if let Some(applied) = self.held.end_absence(now) {
            self.settle(Stream::X509Svids, applied, now);
        }
        for text in self.held.expire(now) {
            error!("{text}: the Workload API has sent nothing usable in its place for too long");
        }
    }

    /// Publishes what may be used at `now`, if that has changed.
    fn publish(&self, now: SystemTime) {
        // A state is built before it is sent, so that no request waits for it.
        let unavailable = self.unavailable(&[Stream::X509Svids, Stream::X509Bundles], now);
        let before = Arc::clone(&self.x509.borrow());
        let next = self.held.x509_state(unavailable, before.revision + 1);
        if !next.is_as(&before) {
            self.x509.send_replace(Arc::new(next));
        }
        let unavailable = self.unavailable(&[Stream::JwtBundles], now);
        let before = Arc::clone(&self.jwt.borrow());
        let next = self.held.jwt_bundles(unavailable);
        if !next.is_as(&before) {
            self.jwt.send_replace(Arc::new(next));
        }
    }

    /// Returns the reason why the bundles of a kind may not be used at `now`.
    fn unavailable(&self, streams: &[Stream], now: SystemTime) -> Option<Unavailable> {
        let mut links = self.links.iter();
        let (_, link) = links.find(|(one, _)| streams.contains(one))?;
        if let Some(reason) = &link.withdrawn {
            return Some(Unavailable::Withdrawn(Arc::clone(reason)));
        }
        if self.held.life().is_some_and(|life| now >= life.until) {
            return Some(Unavailable::Expired);
        }
        self.is_overdue(link, now).then_some(Unavailable::Stale)
    }

    fn is_overdue(&self, link: &Link, now: SystemTime) -> bool {
        self.deadline(link).is_some_and(|deadline| now >= deadline)
    }

    /// Returns the time until which the bundles of a stream are trusted, if it has a limit of its own. While all
    /// streams are lost, the X.509-SVID is the only limit.
    fn deadline(&self, link: &Link) -> Option<SystemTime> {
        let any_works = self.links.values().any(|link| !link.is_lost());
        let is_limited = any_works || self.held.life().is_none();
        link.trusted_until(self.held.grace(), is_limited)
    }

    /// Returns the time until which everything that is in use now stays in use.
    fn trusted_until(&self, now: SystemTime) -> Option<SystemTime> {
        let links = self.links.values().filter_map(|link| self.deadline(link));
        let life = self.held.life().map(|life| life.until);
        let own = self.held.own_fault().map(|since| since + self.held.grace());
        let ends = links.chain(life).chain(own);
        ends.filter(|end| *end > now).min()
    }

    /// Determines the state at `now`, and logs and publishes it if it has changed.
    fn assess(&mut self, now: SystemTime) {
        let next = Readiness::of(&self.facts(now), now);
        let before = self.readiness.borrow().clone();
        if !next.is_as(&before) {
            self.log(&before, &next);
            self.tell(|| match &next {
                Readiness::Ready => self.recovery(&before).to_owned(),
                Readiness::NotReady(Unready::Withdrawn(reason)) => format!("{next}: {reason}"),
                next => next.to_string(),
            });
            self.assessed = now;
        }
        if next == Readiness::Ready {
            self.away = None;
        }
        if next != before {
            self.readiness.send_replace(next);
        }
    }

    /// Tells the observer the state of everything. `missing` is set before the first identity.
    fn observe(&self, missing: Option<&Missing>) {
        let Some(monitor) = &self.monitor else {
            return;
        };
        let status = |(stream, link): (&Stream, &Link)| {
            let waiting = missing.and_then(|missing| missing.waiting(*stream));
            link.status(*stream, waiting, self.assessed)
        };
        monitor.observe(Overview {
            streams: self.links.iter().map(status).collect(),
            readiness: missing.is_none().then(|| self.readiness.borrow().clone()),
            since: self.assessed,
            own: self.held.own_domain().cloned(),
            faults: self.held.faults(),
            x509: Arc::clone(&self.x509.borrow()),
            jwt: Arc::clone(&self.jwt.borrow()),
            seen: Arc::default(),
        });
    }

    /// Tells the observer of a change of the identity or of the readiness.
    fn tell(&self, change: impl FnOnce() -> String) {
        if let Some(monitor) = &self.monitor {
            monitor.note(change());
        }
    }

    fn facts(&self, now: SystemTime) -> Facts {
        let refused = self.links.values().filter_map(Link::refused_since);
        let is_refused = refused.chain(self.held.own_fault()).next().is_some();
        let is_lost = self.links.values().any(Link::is_lost);
        let until = self.trusted_until(now).unwrap_or(now);
        let withdrawn = self
            .links
            .values()
            .find_map(|link| link.withdrawn.as_deref());
        let is_overdue = self.links.values().any(|link| self.is_overdue(link, now));
        Facts {
            withdrawn: withdrawn.map(str::to_owned),
            life: self.held.life(),
            is_stale: is_overdue || self.held.has_lost_own_trust(),
            refused_until: is_refused.then_some(until),
            lost_until: is_lost.then_some(until),
        }
    }

    /// Describes the end of the state `before`.
    fn recovery(&self, before: &Readiness) -> &'static str {
        if self.away.is_some() {
            return "the Workload API is back";
        }
        match before {
            Readiness::NotReady(Unready::Withdrawn(_)) => "the identity is issued again",
            Readiness::NotReady(Unready::Stale)
            | Readiness::Degraded {
                reason: Degradation::Refused,
                ..
            } => "what the Workload API sends can be used again",
            _ => "a new X.509-SVID has come",
        }
    }

    /// Logs a change of state. The return to normal has the level of a warning, so that a log of warnings
    /// also tells the end.
    fn log(&self, before: &Readiness, next: &Readiness) {
        match next {
            Readiness::Ready => warn!("{}", self.recovery(before)),
            // The fault of the update is logged already.
            Readiness::Degraded {
                reason: Degradation::Refused,
                ..
            } => {}
            Readiness::Degraded { .. } => warn!(reason = self.away, "{next}"),
            Readiness::NotReady(Unready::Withdrawn(reason)) => error!(reason, "{next}"),
            Readiness::NotReady(_) => error!("{next}"),
        }
    }

    /// Returns the time until the state may change without an event.
    fn next_assessment(&self, now: SystemTime) -> Duration {
        let life = self.held.life().and_then(|life| life.next_change(now));
        let domains = self.held.next_expiry();
        let links = self.links.values().filter_map(|link| self.deadline(link));
        let ends = links.chain(domains).filter(|end| *end > now);
        let ends = ends.filter_map(|end| end.duration_since(now).ok());
        ends.chain(life)
            .min()
            .unwrap_or(MAX_INTERVAL)
            .min(MAX_INTERVAL)
    }
}
