//! The state of a running process' identity, from updates to an outage, a withdrawal or expiry.
//!
//! The sources report attempts, while operators need states. One task converts attempts to states and
//! logs each change once.

use std::time::{Duration, SystemTime};

use spiffe::{JwtSource, X509Source, jwt_source, x509_source};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tracing::{error, info, warn};

use super::readiness::{Life, Readiness, Unready};

/// The source that reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    X509,
    Jwt,
}

/// A report of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The source connected to the Workload API. The stream on the connection may still fail.
    Connected,
    /// The source accepted changed SVIDs or bundles.
    Updated,
    /// The source rejected an update, and keeps the SVIDs and bundles before it.
    Rejected,
    /// The stream ended or failed, or a message did not parse. The source attempts to reconnect.
    Lost,
}

/// The sender of a source's reports, which the source calls a metrics recorder.
#[derive(Debug)]
pub(super) struct Events {
    stream: Stream,
    sender: mpsc::UnboundedSender<(Stream, Event)>,
}

/// The receiver of the reports, and the state that was last logged.
#[derive(Debug)]
pub(super) struct Monitor {
    x509: X509Source,
    jwt: Option<JwtSource>,
    /// The links of the X.509 source and of the JWT source.
    links: [Link; 2],
    life: Life,
    readiness: watch::Sender<Readiness>,
}

/// The state of a source's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Up,
    /// The connection was made at this time and may still fail.
    Settling(Instant),
    Down,
}

/// The time that a new connection must hold before the outage counts as over. The answer to its request
/// takes milliseconds.
const SETTLE: Duration = Duration::from_secs(1);

/// The longest interval between readings of the clock, which may be set at any time.
const MAX_INTERVAL: Duration = Duration::from_secs(10);

impl Events {
    pub(super) fn new(stream: Stream, sender: mpsc::UnboundedSender<(Stream, Event)>) -> Self {
        Self { stream, sender }
    }

    pub(super) fn connected(&self) {
        self.send(Event::Connected);
    }

    fn send(&self, event: Event) {
        // An error means that the monitor has ended or was never started, so that nothing is logged.
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
    /// Returns a monitor of sources that have had their first update, and the state that it publishes.
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

    /// Logs and publishes every change of state until the sources are closed.
    pub(super) async fn run(mut self, mut events: mpsc::UnboundedReceiver<(Stream, Event)>) {
        self.log_identity("identity issued");
        // Earlier reports are part of start-up.
        while events.try_recv().is_ok() {}
        loop {
            self.assess(SystemTime::now());
            tokio::select! {
                event = events.recv() => match event {
                    Some((stream, event)) => self.on(stream, event),
                    None => return,
                },
                () = sleep(self.next_assessment(SystemTime::now())) => self.settle(),
            }
            // Both sources often report the same change, which is one change of state.
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
            // The current SVID is the only one from now on.
            Event::Lost if was_up => self.life.since = SystemTime::now(),
            _ => {}
        }
    }

    fn updated(&mut self) {
        if let Ok(svid) = self.x509.svid() {
            let life = Life::of(&svid, SystemTime::now());
            // An update of the bundles alone does not renew the SVID.
            if life.until != self.life.until {
                self.life = life;
            }
        }
        self.log_identity("identity updated");
    }

    /// Counts a connection that has held for [`SETTLE`] as up.
    fn settle(&mut self) {
        for link in &mut self.links {
            if matches!(link, Link::Settling(since) if since.elapsed() >= SETTLE) {
                *link = Link::Up;
            }
        }
    }

    /// Determines the state at `now`, and logs and publishes it if it has changed.
    fn assess(&self, now: SystemTime) {
        let reachable = !self.links.contains(&Link::Down);
        let settled = self.links.iter().all(|link| *link == Link::Up);
        let next = match self.withdrawal() {
            Some(reason) => Readiness::NotReady(Unready::Withdrawn(reason)),
            None => Readiness::of(self.life, reachable, now),
        };
        // The recovery is logged only when the connections have held.
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

    /// Returns the time until the state may have changed without a report.
    fn next_assessment(&self, now: SystemTime) -> Duration {
        let settling = self.links.iter().filter_map(|link| match link {
            Link::Settling(since) => Some(SETTLE.saturating_sub(since.elapsed())),
            Link::Up | Link::Down => None,
        });
        let change = self.life.next_change(now);
        let next = settling.chain(change).min();
        next.unwrap_or(MAX_INTERVAL).min(MAX_INTERVAL)
    }

    fn withdrawal(&self) -> Option<String> {
        let x509 = self.x509.state().withdrawal().cloned();
        x509.or_else(|| self.jwt.as_ref()?.state().withdrawal().cloned())
            .map(|error| error.to_string())
    }

    fn log_identity(&self, what: &'static str) {
        if let Ok(svid) = self.x509.svid() {
            let jwt_bundles = self
                .jwt
                .as_ref()
                .and_then(|jwt| Some(jwt.bundle_set().ok()?.len()));
            info!(spiffe_id = %svid.spiffe_id(), jwt_bundles, "{what}");
        }
    }
}
