//! What becomes of a running process' identity: updates, an outage, withdrawal, expiry. The log tells
//! each change of state once.
//!
//! The sources report attempts; an operator wants states. One task turns the first into the second.

use std::time::{Duration, SystemTime};

use spiffe::{JwtSource, X509Source, jwt_source, x509_source};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tracing::{error, info, warn};

use super::readiness::{Life, Readiness, Unready};

/// Which of the sources reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    X509,
    Jwt,
}

/// What a source reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A connection to the Workload API was made; the stream on it may still fail.
    Connected,
    /// Changed material was accepted.
    Updated,
    /// A message was not: the material before it stays in use.
    Rejected,
    /// The stream ended or failed, or had a message that doesn't parse; another attempt follows.
    Lost,
}

/// The sending side: what the sources call a metrics recorder.
#[derive(Debug)]
pub(super) struct Events {
    stream: Stream,
    sender: mpsc::UnboundedSender<(Stream, Event)>,
}

/// The receiving side, and the state that the log last told.
#[derive(Debug)]
pub(super) struct Monitor {
    x509: X509Source,
    jwt: Option<JwtSource>,
    /// Of the X.509 source and of the JWT source.
    links: [Link; 2],
    life: Life,
    readiness: watch::Sender<Readiness>,
}

/// Whether a source's stream is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Up,
    /// There is a new connection since then.
    Settling(Instant),
    Down,
}

/// How long a new connection must hold before the outage counts as over: the answer to the request
/// that follows takes milliseconds, and a refusal as long.
const SETTLE: Duration = Duration::from_secs(1);

/// How often the clock is looked at, which may have been set meanwhile.
const LOOK: Duration = Duration::from_secs(10);

impl Events {
    pub(super) fn new(stream: Stream, sender: mpsc::UnboundedSender<(Stream, Event)>) -> Self {
        Self { stream, sender }
    }

    pub(super) fn connected(&self) {
        self.send(Event::Connected);
    }

    fn send(&self, event: Event) {
        // Nobody receives until start-up is over, nor after the monitor has ended: nothing to tell then.
        let _ = self.sender.send((self.stream, event));
    }
}

impl x509_source::MetricsRecorder for Events {
    fn record_update(&self) {
        self.send(Event::Updated);
    }

    fn record_reconnect(&self) {
        self.send(Event::Lost);
    }

    fn record_error(&self, kind: x509_source::MetricsErrorKind) {
        if kind == x509_source::MetricsErrorKind::UpdateRejected {
            self.send(Event::Rejected);
        }
    }
}

impl jwt_source::MetricsRecorder for Events {
    fn record_update(&self) {
        self.send(Event::Updated);
    }

    fn record_reconnect(&self) {
        self.send(Event::Lost);
    }

    fn record_error(&self, kind: jwt_source::MetricsErrorKind) {
        if kind == jwt_source::MetricsErrorKind::UpdateRejected {
            self.send(Event::Rejected);
        }
    }
}

impl Monitor {
    /// Of sources that are synchronised; also where the state can be read.
    pub(super) fn new(
        x509: X509Source,
        jwt: Option<JwtSource>,
    ) -> (Self, watch::Receiver<Readiness>) {
        let now = SystemTime::now();
        let life = match x509.svid() {
            Ok(svid) => Life::of(&svid, now),
            Err(_) => Life {
                since: now,
                until: now,
            },
        };
        let (readiness, watched) = watch::channel(Readiness::Ready);
        let monitor = Self {
            x509,
            jwt,
            links: [Link::Up; 2],
            life,
            readiness,
        };
        (monitor, watched)
    }

    /// Tells every change of state until the sources are gone.
    pub(super) async fn run(mut self, mut events: mpsc::UnboundedReceiver<(Stream, Event)>) {
        self.say_identity("identity issued");
        // What was reported before now belongs to start-up.
        while events.try_recv().is_ok() {}
        loop {
            self.assess(SystemTime::now());
            tokio::select! {
                event = events.recv() => match event {
                    Some((stream, event)) => self.on(stream, event),
                    None => return,
                },
                () = sleep(self.next_look(SystemTime::now())) => self.settle(),
            }
            // One change is often told by both sources: it is one state.
            while let Ok((stream, event)) = events.try_recv() {
                self.on(stream, event);
            }
        }
    }

    fn on(&mut self, stream: Stream, event: Event) {
        let was_up = self.links.iter().all(|link| *link == Link::Up);
        let link = &mut self.links[stream as usize];
        match event {
            Event::Connected if *link == Link::Up => {}
            Event::Connected => *link = Link::Settling(Instant::now()),
            Event::Lost => *link = Link::Down,
            Event::Updated => *link = Link::Up,
            Event::Rejected => error!(
                "the Workload API sent an update that can't be used; going on with the one before"
            ),
        }
        match event {
            Event::Updated => self.updated(),
            // From now on nothing new comes.
            Event::Lost if was_up => self.life.since = SystemTime::now(),
            _ => {}
        }
    }

    fn updated(&mut self) {
        if let Ok(svid) = self.x509.svid() {
            let life = Life::of(&svid, SystemTime::now());
            // A change of the bundles alone makes no SVID younger.
            if life.until != self.life.until {
                self.life = life;
            }
        }
        self.say_identity("identity updated");
    }

    /// Connections that have held for long enough are there.
    fn settle(&mut self) {
        for link in &mut self.links {
            if matches!(link, Link::Settling(since) if since.elapsed() >= SETTLE) {
                *link = Link::Up;
            }
        }
    }

    /// Takes note of the state at `now`, and tells it if it is another.
    fn assess(&self, now: SystemTime) {
        let reachable = !self.links.contains(&Link::Down);
        let settled = self.links.iter().all(|link| *link == Link::Up);
        let next = match self.withdrawal() {
            Some(reason) => Readiness::NotReady(Unready::Withdrawn(reason)),
            None => Readiness::of(self.life, reachable, now),
        };
        // Good news waits until a connection has held.
        if next.is_as(&self.readiness.borrow()) || next == Readiness::Ready && !settled {
            return;
        }
        match &next {
            Readiness::Ready => info!("the Workload API is back"),
            Readiness::Degraded { .. } => warn!("{next}"),
            Readiness::NotReady(Unready::Withdrawn(reason)) => error!(reason, "{next}"),
            Readiness::NotReady(_) => error!("{next}"),
        }
        self.readiness.send_replace(next);
    }

    fn next_look(&self, now: SystemTime) -> Duration {
        let settling = self.links.iter().filter_map(|link| match link {
            Link::Settling(since) => Some(SETTLE.saturating_sub(since.elapsed())),
            Link::Up | Link::Down => None,
        });
        let change = self.life.next_change(now);
        settling.chain(change).min().unwrap_or(LOOK).min(LOOK)
    }

    fn withdrawal(&self) -> Option<String> {
        let x509 = self.x509.state().withdrawal().cloned();
        x509.or_else(|| self.jwt.as_ref()?.state().withdrawal().cloned())
            .map(|error| error.to_string())
    }

    fn say_identity(&self, what: &'static str) {
        if let Ok(svid) = self.x509.svid() {
            let jwt_bundles = self
                .jwt
                .as_ref()
                .and_then(|jwt| Some(jwt.bundle_set().ok()?.len()));
            info!(spiffe_id = %svid.spiffe_id(), jwt_bundles, "{what}");
        }
    }
}
