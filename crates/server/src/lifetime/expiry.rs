//! The end of a caller's credential.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use common::bearer::Credential;
use http::Request;
use serve::{Received, peer::Peer, websocket::WebSocket};
use spiffe::SpiffeId;
use tokio::time::sleep;
use tracing::info;

/// The longest time between two looks at the clock, which may be set, or go on while the machine sleeps.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(60);

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
    /// Bounds the caller's side of a WebSocket or a gRPC call. It would continue while the caller reads nothing
    /// of the answer, whose end would then be late.
    pub(crate) fn bound_stream_of(&self, request: &mut Request<Received>) {
        let is_socket = request.extensions().get::<WebSocket>().is_some();
        if is_socket || self.is_call {
            request.body_mut().end_at(self.at + ANSWER_FIRST);
        }
    }

    /// Waits until the credential has expired.
    pub(super) async fn passed(&self) {
        loop {
            let left = self.left();
            if left.is_zero() {
                return;
            }
            sleep(left.min(LOOK_EVERY)).await;
        }
    }

    /// Returns the time that is left.
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
        info!(%caller, %peer, "stream ended: {}", self.reason());
    }
}
