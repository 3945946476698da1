//! What the log says of a running process' identity: updates, an outage once, withdrawal once.
//!
//! The sources report attempts; an operator wants states. One task turns the first into the second.

use std::time::Duration;

use spiffe::{JwtSource, X509Source, jwt_source, x509_source};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

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
pub(super) struct Events(mpsc::UnboundedSender<Event>);

/// The receiving side, and the state that the log last told.
#[derive(Debug)]
pub(super) struct Monitor {
    x509: X509Source,
    jwt: Option<JwtSource>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connected,
    /// On what it has, until that expires.
    Outage,
    /// The Workload API said that this process has no identity any more (Workload API §5.2.1).
    Withdrawn,
}

/// How long a new connection must hold before the outage counts as over: the answer to the request
/// that follows takes milliseconds, and a refusal as long.
const SETTLE: Duration = Duration::from_secs(1);

impl Events {
    pub(super) fn new(sender: mpsc::UnboundedSender<Event>) -> Self {
        Self(sender)
    }

    pub(super) fn connected(&self) {
        self.send(Event::Connected);
    }

    fn send(&self, event: Event) {
        // Nobody receives until start-up is over, nor after the monitor has ended: nothing to tell then.
        let _ = self.0.send(event);
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
    pub(super) fn new(x509: X509Source, jwt: Option<JwtSource>) -> Self {
        Self {
            x509,
            jwt,
            state: State::Connected,
        }
    }

    /// Tells every change of state until the sources are gone.
    pub(super) async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>) {
        self.say_identity("identity issued");
        // What was reported before now belongs to start-up.
        while events.try_recv().is_ok() {}
        let mut settling = false;
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => {
                        settling = event == Event::Connected && self.state != State::Connected;
                        self.on(event);
                    }
                    None => return,
                },
                () = tokio::time::sleep(SETTLE), if settling => {
                    settling = false;
                    self.recovered();
                }
            }
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Connected => {}
            Event::Updated => {
                self.recovered();
                self.say_identity("identity updated");
            }
            Event::Rejected => error!(
                "the Workload API sent an update that can't be used; going on with the one before"
            ),
            Event::Lost => self.lost(),
        }
    }

    fn lost(&mut self) {
        if let Some(reason) = self.withdrawal() {
            if self.state != State::Withdrawn {
                error!(
                    reason,
                    "identity withdrawn by the Workload API: new connections and tokens are refused"
                );
            }
            self.state = State::Withdrawn;
        } else if self.state == State::Connected {
            warn!(
                "lost the Workload API, or can't use what it sends; going on with the current SVIDs and bundles until they expire"
            );
            self.state = State::Outage;
        }
    }

    fn recovered(&mut self) {
        if self.state != State::Connected && self.withdrawal().is_none() {
            info!("the Workload API is back");
            self.state = State::Connected;
        }
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
