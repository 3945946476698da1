//! The end of a caller's credential.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use common::{bearer::Credential, reason::Reason};
use http::Request;
use serve::{Received, peer::Peer, websocket::WebSocket};
use spiffe::SpiffeId;
use tokio::time::{Instant, Sleep, sleep};
use tracing::info;

/// The longest time between two readings of the clock, which may be set, or continue while the machine sleeps.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The time that the answer has to end before the request breaks off, which would break the answer too.
const ANSWER_FIRST: Duration = Duration::from_secs(2);

/// The end of a caller's credential, which the answer to its request must not outlast.
#[derive(Clone, Debug)]
pub(crate) struct Expiry {
    pub(super) at: SystemTime,
    pub(super) credential: Credential,
    /// Set if the request is a gRPC call.
    pub(super) is_call: bool,
    pub(super) caller: Arc<SpiffeId>,
    pub(super) peer: Peer,
}

impl Expiry {
    /// Bounds the caller's side of a WebSocket or a gRPC call. A caller that does not read the answer would
    /// otherwise delay the end of both sides.
    pub(crate) fn bound_stream_of(&self, request: &mut Request<Received>) {
        let is_socket = request.extensions().get::<WebSocket>().is_some();
        if is_socket || self.is_call {
            request.body_mut().end_at(self.at + ANSWER_FIRST);
        }
    }

    /// Waits until the credential has expired.
    pub(super) async fn passed(&self) {
        let mut timer = None;
        poll_fn(|cx| self.poll_passed(&mut timer, cx)).await;
    }

    /// Polls whether the credential has expired. `timer` runs from the first time that it has not.
    pub(super) fn poll_passed(
        &self,
        timer: &mut Option<Pin<Box<Sleep>>>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            let left = self.left();
            if left.is_zero() {
                return Poll::Ready(());
            }
            let next = left.min(LOOK_EVERY);
            let timer = timer.get_or_insert_with(|| Box::pin(sleep(next)));
            ready!(timer.as_mut().poll(cx));
            timer.as_mut().reset(Instant::now() + next);
        }
    }

    pub(super) fn left(&self) -> Duration {
        let left = self.at.duration_since(SystemTime::now());
        left.unwrap_or_default()
    }

    /// Returns the reason that the caller is told.
    pub(super) fn reason(&self) -> &'static str {
        match self.credential {
            Credential::Token { .. } => "the token has expired",
            Credential::Certificate => "the certificate has expired",
        }
    }

    /// Logs the end of a stream.
    pub(super) fn log(&self) {
        let Self { caller, peer, .. } = self;
        let reason = Reason::CredentialExpired;
        info!(%caller, %peer, %reason, "stream ended: {}", self.reason());
    }
}
