//! The end of a connection: its drain, and what begins it.

use std::{
    future::pending,
    time::{Duration, SystemTime},
};

use tokio::time::{sleep, timeout};

use super::{
    Connection, Error, HttpConnection,
    activity::{Activity, Closing, Overdue},
    evicted,
};

/// The time that a connection without a request in flight has after a stop was requested. In it the peer
/// can finish its TLS handshake, send the rest of a request, or answer GOAWAY. A silent peer must not
/// delay the stop.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

impl Connection {
    /// Waits until the connection may take no more requests.
    pub(super) async fn closing(&self, activity: &Activity) -> Closing {
        tokio::select! {
            closing = activity.overdue_or_old(&self.shared.limits) => closing,
            () = self.identities_end() => Closing::Drain,
        }
    }

    /// Ends a connection that has exceeded a deadline.
    pub(super) async fn end_overdue(
        &self,
        connection: &mut impl HttpConnection,
        overdue: Overdue,
    ) -> Result<(), Error> {
        connection.start_drain();
        match overdue {
            // The last bytes of an answer may still be leaving, or a request may just arrive.
            Overdue::Idle => timeout(self.shared.limits.body_timeout, connection)
                .await
                .unwrap_or(Err(overdue.into())),
            Overdue::Header | Overdue::Reader => Err(overdue.into()),
        }
    }

    /// Ends a connection after its requests in flight.
    pub(super) async fn finish(
        &self,
        connection: &mut impl HttpConnection,
        activity: &Activity,
    ) -> Result<(), Error> {
        connection.start_drain();
        tokio::select! {
            served = &mut *connection => served,
            overdue = activity.overdue(&self.shared.limits) => Err(overdue.into()),
            () = evicted(activity) => Err(Error::Evicted),
            () = activity.without_request_for(self.drain_grace()) => Err(Error::Stopping),
        }
    }

    /// Returns the age at which the connection drains. A peer's certificate bounds it too.
    pub(super) fn max_age(&self) -> Option<Duration> {
        let identity = self.peer.identity();
        let left = identity.map(|one| one.until.duration_since(SystemTime::now()));
        let left = left.map(Result::unwrap_or_default);
        let age = self.shared.limits.max_connection_age;
        left.into_iter().chain(age).min()
    }

    /// Waits until the process stops, or an identity ends that was verified in the handshake.
    async fn identities_end(&self) {
        let own = self.identity_end.clone().requested();
        match self.peer.identity() {
            None => own.await,
            Some(identity) => tokio::select! {
                () = own => {}
                () = identity.distrusted() => {}
            },
        }
    }

    /// Drains a connection, at most for the drain timeout. A stop of the process has its own deadline.
    pub(super) async fn within_drain_timeout(
        &self,
        drained: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Error> {
        let late = async {
            sleep(self.shared.limits.drain_timeout).await;
            if self.shutdown.is_requested() {
                pending::<()>().await;
            }
        };
        tokio::select! {
            drained = drained => drained,
            () = late => Err(Error::NotDrained),
        }
    }

    /// Waits until a stop is requested and the time for unfinished handshakes has passed.
    pub(super) async fn handshakes_end(&self) {
        self.shutdown.clone().requested().await;
        sleep(self.drain_grace()).await;
    }

    /// Returns [`DRAIN_GRACE`], shortened so that an idle connection is closed before the drain timeout.
    pub(super) fn drain_grace(&self) -> Duration {
        DRAIN_GRACE.min(self.shared.limits.drain_timeout / 2)
    }
}
